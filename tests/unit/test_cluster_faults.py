"""The engine's own messages, collected from Engine 20.10 and 28, and the sentences made of them."""

import pytest

from meshlb.cluster.faults import explain


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (
            (
                'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect '
                "this node to swarm and try again."
            ),
            "this node is not part of a swarm: create one with `meshlb init`, or join one with `meshlb join`",
        ),
        (
            (
                "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster "
                "state. Please run this command on a manager node or promote the current node to a manager."
            ),
            "run this on a manager (10.0.0.1, 10.0.0.2)",
        ),
        (
            (
                'This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join '
                "another one."
            ),
            "leave this one first with `meshlb leave`",
        ),
        ("invalid join token", "a manager prints the right one with `meshlb join-token worker`"),
        (
            "rpc error: code = InvalidArgument desc = A valid join token is necessary to join this cluster",
            "the join token is not valid for this swarm",
        ),
        (
            (
                'rpc error: code = Unavailable desc = connection error: desc = "transport: Error while '
                'dialing dial tcp 10.77.0.1:2378: connect: connection refused"'
            ),
            "no manager answers at 10.77.0.1:2378 (connection refused)",
        ),
        (
            (
                "Timeout was reached before node joined. The attempt to join the swarm will continue in the "
                'background. Use the "docker info" command to see the current swarm status of your node.'
            ),
            "goes on in the background",
        ),
        (
            (
                "could not choose an IP address to advertise since this system has multiple addresses on "
                "different interfaces (10.77.0.2 on eth0 and 10.79.0.2 on eth1) - specify one with "
                "--advertise-addr"
            ),
            "several addresses (10.77.0.2 on eth0 and 10.79.0.2 on eth1): say with --advertise-addr",
        ),
        (
            (
                "could not choose an IP address to advertise since this system has multiple addresses on "
                "interface eth0 (10.77.0.2 and 10.78.0.2)"
            ),
            "several addresses (10.77.0.2 and 10.78.0.2)",
        ),
        (
            "could not find local IP address: dial udp: lookup nohost on 127.0.0.1:53: connection refused",
            'the manager\'s address "nohost" leads nowhere',
        ),
        (
            (
                "You are attempting to leave the swarm on a node that is participating as a manager. "
                "Removing the last manager erases all current state of the swarm. Use `--force` to "
                "ignore this message."
            ),
            "the swarm's last manager",
        ),
        (
            (
                "rpc error: code = InvalidArgument desc = port '80' is already in use by service 'whoami' "
                "(002g0gimp7rbo6ot1vcvkkrsx) as an ingress port"
            ),
            "port 80 is already published by service whoami",
        ),
        (
            (
                "rpc error: code = AlreadyExists desc = name conflicts with an existing object: service "
                "whoami already exists"
            ),
            "a service named whoami exists already",
        ),
        ("service nope not found", "no such service: nope (`meshlb service ls` lists them)"),
        ("network nonet not found", "no such network: nonet"),
        ("rpc error: code = Unknown desc = what  is\nthis", "the Docker daemon says: what is this"),
        ("", "without saying why"),
    ],
)
def test_sentences(message: str, says: str) -> None:
    sentence = explain(message, ("10.0.0.1", "10.0.0.2"))
    assert says in sentence
    assert "\n" not in sentence
    assert "rpc error" not in sentence
