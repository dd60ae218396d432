"""What can go wrong in a way that the user can mend; everything else is a bug with a traceback."""


class MeshError(Exception):
    """One sentence for the user: what is wrong, and what to do about it."""


class ConfigError(MeshError):
    """A file, a flag or a label says something that cannot be."""


class EngineError(MeshError):
    """The Docker Engine does not answer, refuses, or answers with garbage."""


class PortError(MeshError):
    """A published port cannot be served on this node."""


class LabError(MeshError):
    """The lab cannot be built, or is not there."""


class LabBusyError(LabError):
    """Another process is building the lab, or taking it down."""
