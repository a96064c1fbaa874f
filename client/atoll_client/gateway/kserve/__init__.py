"""KServe's inference protocol (v2) at the gateway's door, over HTTP and gRPC, for every model.

A request is read and checked here, and then sent to a server as a ModelInfer message over gRPC: no
bytes of a client reach a server's own HTTP front end, whose parser a client could crash.
"""
