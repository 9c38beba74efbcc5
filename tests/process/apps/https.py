"""HTTPS: GET is a page of a directory, POST is answered with its body's digest; POST to /refused with 413 after its beginning.

https.py PORT DIRECTORY CERTIFICATE KEY
"""

import hashlib
import http.server
import ssl
import sys

port, directory, certificate, key = sys.argv[1:]


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments):
        super().__init__(*arguments, directory=directory)

    def do_POST(self):
        left = int(self.headers["Content-Length"])
        if self.path == "/refused":
            self.rfile.read(100_000)
            self.send_error(413)
            self.close_connection = True
            return
        digest = hashlib.sha256()
        while left:
            piece = self.rfile.read(min(left, 65536))
            if not piece:
                return
            digest.update(piece)
            left -= len(piece)
        answer = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("0.0.0.0", int(port)), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
