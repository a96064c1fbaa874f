"""KServe's inference protocol (v2) over HTTP and gRPC, for models of any kind.

Requests are read and checked here, and sent to servers as ModelInfer messages over gRPC. So no
bytes of a client reach a server's own HTTP front end, whose parser can be made to crash.
"""
