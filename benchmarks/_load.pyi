from typing import NoReturn, TypedDict

class Report(TypedDict):
    seconds: float
    done: int
    failed: dict[str, int]
    cells: dict[str, int]

class Pings(TypedDict):
    seconds: float
    done: int
    silences: int

class Server:
    def add(self, listener: int, reply: bytes, closes: bool) -> None: ...
    def run(self) -> NoReturn: ...

class Load:
    def __init__(self, host: str, port: int, request: bytes, expected: int) -> None: ...
    def churn(self, connections: int, seconds: float, total: int = 0) -> Report: ...
    def paced(self, connections: int, rate: float, seconds: float) -> Report: ...

def echo_datagrams(fd: int) -> NoReturn: ...
def ping_datagrams(host: str, port: int, size: int, sockets: int, window: int, seconds: float) -> Pings: ...
