"""Log records as lines: readable text, or one JSON object each."""
