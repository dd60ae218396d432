"""`python -m meshlb` is the command `meshlb`."""

from meshlb.cli import main

main()
