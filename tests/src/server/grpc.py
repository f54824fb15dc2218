# The gRPC project's own server, with Check of grpc.health.v1.Health for one service. Whether that serves stands in a
# file: 1 is SERVING, 2 is NOT_SERVING. The two messages have one field each and are read and written as bytes.
import sys
from concurrent import futures

import grpc

port, tls_port, service, status, certificate, key = sys.argv[1:]
asked = b"\x0a" + bytes([len(service)]) + service.encode()


def check(request, context):
    if request != asked:
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    with open(status, "rb") as file:
        return bytes([0x08, int(file.read())])


def read(path):
    with open(path, "rb") as file:
        return file.read()


server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
methods = {"Check": grpc.unary_unary_rpc_method_handler(check)}
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)])
identity = grpc.ssl_server_credentials([(read(key), read(certificate))])
# 0: it could not bind.
if not server.add_secure_port("[::]:" + tls_port, identity) or not server.add_insecure_port("[::]:" + port):
    sys.exit("cannot bind ports " + port + " and " + tls_port)
server.start()
server.wait_for_termination()
