#!/usr/bin/env python3
"""An S3 server for tests: real signatures, real files, a ledger of the truth, scripted lies.

Standard library only. Prints its port on standard output, then serves until it is killed, or, with
--until-eof, until standard input ends.

Control (no signature):
  POST /_faults   a list of rules replaces those before; [] for none
  GET  /_ledger   one JSON object a request: time, verb, bucket, key, status (0: none sent), stored,
                  connection, active (requests being served at that moment, this one included)
  POST /_reset    no rules, empty ledger
  POST /_delete   a list of keys that somebody else deletes; the answer is a list of those that were there
  POST /_buckets  a list of buckets that are the only ones from now on; what is in the others is lost
  GET  /_stats    connections, tls_failures, peak (of active)

A rule: {"verb": "PUT", "key_regex": "...", "nth": 1, "count": 1, "probability": 1.0,
         "action": ..., more}. Verbs: PUT GET HEAD DELETE LIST. It applies to the nth matching
request and the count - 1 after it (count absent: all). Actions:
  status           status=503, body="" (text), code="SlowDown" (XML instead), html=true,
                   headers={}, stored=false
  truncate         full Content-Length, half the body, then close
  reset-before     reset before the body is read
  reset-after      reset after it; stored=true or false
  stall            no answer, ever; when="before" reading the body, or "after"; stored=false
  stall-body       headers and half of the body, then nothing
  drip             the answer one byte at a time, delay=0.05 s between
  redirect         status=307, location="http://..."
  no-store         200 without storing; etag=true adds the ETag that would make it perfect
  error-200        200 with an <Error> document
  store-then       store, then status=500
  early-200        200 with an ETag before the body was read, then close
  ignore-range     the whole object with 200
  wrong-range      206 with another part than was asked for
  no-length        the answer ends with the connection
  corrupt          one byte of the body is another
  cut-listing      XML cut in the middle, Content-Length to match
  html-listing     200 with an HTML page
  error-listing    200 with an <Error> document
  loop-listing     IsTruncated with a marker that does not advance
  empty-listing    200 with an empty body
  disorder         the keys of a page backwards
  big-header       more headers than anybody wants
  big-body         status=500 with megabytes of text
  bomb             200 with an XML entity bomb
"""
import argparse
import datetime
import hashlib
import hmac
import json
import os
import random
import re
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
import urllib.parse
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from xml.sax.saxutils import escape

XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
HTML = "<html><head><title>Sign in</title></head><body><h1>Hotel network</h1></body></html>"
REASON = {200: "OK", 204: "No Content", 206: "Partial Content", 301: "Moved Permanently",
          307: "Temporary Redirect", 400: "Bad Request", 403: "Forbidden", 404: "Not Found",
          412: "Precondition Failed", 416: "Range Not Satisfiable", 500: "Internal Server Error",
          501: "Not Implemented", 503: "Service Unavailable"}


class Reset(Exception):
    """the connection ends here and now"""


class S3Error(Exception):
    def __init__(self, status, code, message, extra=""):
        super().__init__(code)
        self.status, self.code, self.message, self.extra = status, code, message, extra


def quote(s, safe="-_.~"):
    return urllib.parse.quote(s, safe=safe)


def iso(t):
    return datetime.datetime.fromtimestamp(t, datetime.timezone.utc).strftime(
        "%Y-%m-%dT%H:%M:%S.") + "%03dZ" % int(t % 1 * 1000)


def error_xml(code, message, extra=""):
    return ('<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>%s</Code><Message>%s</Message>%s'
            '<RequestId>TESTREQUEST</RequestId></Error>' % (code, escape(message), extra)).encode()


class Objects:
    """one file per object, and beside it its metadata as JSON"""

    def __init__(self, root, buckets):
        self.root, self.lock, self.index = root, threading.Lock(), {}
        for b in buckets:
            os.makedirs(os.path.join(root, b), exist_ok=True)
        for b in os.listdir(root):
            self.index[b] = {}
            for name in os.listdir(os.path.join(root, b)):
                if name.endswith(".json"):
                    with open(os.path.join(root, b, name)) as f:
                        meta = json.load(f)
                    self.index[b][meta["key"]] = meta

    def path(self, bucket, key):
        name = quote(key, "")
        if len(name) > 200:
            name = hashlib.sha256(key.encode()).hexdigest()
        return os.path.join(self.root, bucket, name)

    def put(self, bucket, key, data, headers, only_new):
        meta = {"key": key, "size": len(data), "time": time.time(),
                "etag": '"%s"' % hashlib.md5(data).hexdigest(), "headers": headers}
        path = self.path(bucket, key)
        with self.lock:
            if only_new and key in self.index[bucket]:
                raise S3Error(412, "PreconditionFailed", "it exists")
            for suffix, content in ((".data", data), (".json", json.dumps(meta).encode())):
                with open(path + ".new", "wb") as f:
                    f.write(content)
                os.rename(path + ".new", path + suffix)
            self.index[bucket][key] = meta
        return meta

    def get(self, bucket, key):
        with self.lock:
            meta = self.index[bucket].get(key)
            if not meta:
                raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
            with open(self.path(bucket, key) + ".data", "rb") as f:
                return meta, f.read()

    def delete(self, bucket, key):
        with self.lock:
            if self.index[bucket].pop(key, None):
                for suffix in (".data", ".json"):
                    os.unlink(self.path(bucket, key) + suffix)

    def keys(self, bucket, prefix, after):
        with self.lock:
            found = [k for k in self.index[bucket] if k.startswith(prefix)]
        after = after.encode()
        return sorted((k for k in found if k.encode() > after), key=lambda k: k.encode())


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 512

    def __init__(self, args):
        self.args = args
        self.objects = Objects(args.dir, args.bucket)
        self.keys = dict(k.split(":", 1) for k in args.key_pair)
        self.lock = threading.Lock()
        self.rules, self.ledger = [], []
        self.stats = {"connections": 0, "tls_failures": 0, "peak": 0}
        self.active = 0
        self.tls = None
        if args.cert:
            self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.tls.load_cert_chain(args.cert, args.key)
        super().__init__((args.host, args.port), Handler)

    def process_request_thread(self, request, client_address):
        with self.lock:
            self.stats["connections"] += 1
        if self.tls:
            try:
                request.settimeout(10)
                request = self.tls.wrap_socket(request, server_side=True)
                request.settimeout(None)
            except (OSError, ValueError):
                with self.lock:
                    self.stats["tls_failures"] += 1
                request.close()
                return
        super().process_request_thread(request, client_address)

    def shutdown_request(self, request):
        request.close()  # no FIN in front of a reset

    def handle_error(self, request, client_address):
        kind = sys.exc_info()[0]
        if not issubclass(kind, (OSError, Reset)):
            super().handle_error(request, client_address)

    def write_ledger(self, entry):
        with self.lock:
            self.ledger.append(entry)
            if self.args.ledger:
                with open(self.args.ledger, "a") as f:
                    f.write(json.dumps(entry) + "\n")

    def match(self, verb, key):
        with self.lock:
            for r in self.rules:
                if r.get("verb", verb) != verb or not re.search(r.get("key_regex", ""), key):
                    continue
                r["seen"] = r.get("seen", 0) + 1
                first = r.get("nth", 1)
                if r["seen"] < first or ("count" in r and r["seen"] >= first + r["count"]):
                    continue
                if random.random() < r.get("probability", 1.0):
                    return r
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    rbufsize = 1 << 16

    def log_message(self, *args):
        pass

    # ---- answers

    def reply(self, status, body=b"", headers=(), length=None, head=False):
        lines = ["HTTP/1.1 %d %s" % (status, REASON.get(status, "Status")), "Server: s3server",
                 "Date: " + formatdate(usegmt=True), "x-amz-request-id: TESTREQUEST"]
        lines += ["%s: %s" % h for h in headers]
        if length is None:
            length = len(body)
        if length >= 0 and status != 204:
            lines.append("Content-Length: %d" % length)
        if self.close_connection:
            lines.append("Connection: close")
        data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (b"" if head else body)
        self.sent_status = status
        self.log_entry()  # before the client can ask for the ledger
        if self.drip:
            for i in range(len(data)):
                self.wfile.write(data[i:i + 1])
                time.sleep(self.drip)
        else:
            self.wfile.write(data)

    def reset(self):
        self.log_entry()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        raise Reset()

    def stall(self):
        self.log_entry()
        while True:
            time.sleep(60)

    def cut(self, status, body, headers=()):
        """the headers promise all of it"""
        self.close_connection = True
        self.reply(status, body[:len(body) // 2], headers, length=len(body))

    # ---- signature

    def read_body(self):
        if self.body is None:
            n = int(self.headers.get("Content-Length") or 0)
            self.body = self.rfile.read(n)
            if len(self.body) < n:
                self.reset()
        return self.body

    def check_signature(self):
        h = self.headers
        m = re.match(r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/s3/aws4_request, ?"
                     r"SignedHeaders=([^,]+), ?Signature=([0-9a-f]{64})$",
                     h.get("Authorization", ""))
        if not m:
            raise S3Error(403, "AccessDenied", "no signature of version 4")
        key_id, day, region, signed, signature = m.groups()
        if key_id not in self.server.keys:
            raise S3Error(403, "InvalidAccessKeyId",
                          "The AWS Access Key Id you provided does not exist in our records.")
        secret, _, token = self.server.keys[key_id].partition(":")
        if token and h.get("x-amz-security-token") != token:
            raise S3Error(403, "InvalidToken", "the token is not the one of this key")
        if region != self.server.args.region:
            raise S3Error(400, "AuthorizationHeaderMalformed",
                          "the region '%s' is wrong; expecting '%s'" %
                          (region, self.server.args.region),
                          "<Region>%s</Region>" % self.server.args.region)
        date = h.get("x-amz-date", "")
        when = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(
            tzinfo=datetime.timezone.utc).timestamp()
        if abs(when - time.time()) > 900 or date[:8] != day:
            raise S3Error(403, "RequestTimeTooSkewed", "the clocks differ too much")
        names = signed.split(";")
        for name in h.keys():
            if name.lower().startswith("x-amz-") and name.lower() not in names:
                raise S3Error(403, "AccessDenied", "unsigned header " + name)
        if "host" not in names or names != sorted(names):
            raise S3Error(403, "AccessDenied", "signed headers out of order or without host")
        path, _, query = self.path.partition("?")
        pairs = sorted((quote(urllib.parse.unquote(n)), quote(urllib.parse.unquote(v)))
                       for n, _, v in (p.partition("=") for p in query.split("&") if p))
        claimed = h.get("x-amz-content-sha256", "")
        canonical = "\n".join([
            self.command, quote(urllib.parse.unquote(path), "/-_.~"),
            "&".join("%s=%s" % p for p in pairs),
            "".join("%s:%s\n" % (n, " ".join(h.get(n, "").split())) for n in names),
            signed, claimed])
        scope = "%s/%s/s3/aws4_request" % (day, region)
        text = "\n".join(["AWS4-HMAC-SHA256", date, scope,
                          hashlib.sha256(canonical.encode()).hexdigest()])
        k = ("AWS4" + secret).encode()
        for part in (day, region, "s3", "aws4_request", text):
            k = hmac.new(k, part.encode(), hashlib.sha256).digest()
        if not hmac.compare_digest(k.hex(), signature):
            raise S3Error(403, "SignatureDoesNotMatch",
                          "The request signature we calculated does not match the signature you "
                          "provided. Check your key and signing method.")
        if claimed != "UNSIGNED-PAYLOAD" and \
                hashlib.sha256(self.read_body()).hexdigest() != claimed:
            raise S3Error(400, "XAmzContentSHA256Mismatch", "the body is not the one signed")

    # ---- requests

    def handle_one_request(self):
        self.drip = 0
        super().handle_one_request()

    def locate(self):
        path, _, query = self.path.partition("?")
        self.query = {urllib.parse.unquote(n): urllib.parse.unquote(v)
                      for n, _, v in (p.partition("=") for p in query.split("&") if p)}
        path = urllib.parse.unquote(path)[1:]
        host = (self.headers.get("Host") or "").split(":")[0]
        for b in list(self.server.objects.index):
            if host.startswith(b + "."):
                return b, path
        bucket, _, key = path.partition("/")
        return bucket, key

    def serve(self):
        self.body, self.sent_status, self.stored, self.logged = None, 0, False, False
        if self.path.startswith("/_"):
            self.logged = True
            self.control()
            return
        self.bucket, self.key = self.locate()
        self.verb = self.command
        if self.command == "GET" and not self.key:
            self.verb, self.key = "LIST", self.query.get("prefix", "")
        server = self.server
        with server.lock:
            server.active += 1
            self.active_now = server.active
            server.stats["peak"] = max(server.stats["peak"], server.active)
        try:
            rule = server.match(self.verb, self.key)
            try:
                if rule:
                    self.before(rule)
                self.check_signature()
                if self.bucket not in server.objects.index:
                    raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist",
                                  "<BucketName>%s</BucketName>" % escape(self.bucket))
                if not (rule and self.instead(rule)):
                    run = getattr(self, "do_" + self.verb.lower(), None)
                    if not run:  # DeleteObjects, multipart uploads: tests/s3fault has them
                        raise S3Error(501, "NotImplemented", "this is not implemented")
                    run(rule or {})
            except S3Error as e:
                self.read_body()
                self.reply(e.status, error_xml(e.code, e.message, e.extra),
                           [("Content-Type", "application/xml")], head=self.verb == "HEAD")
        finally:
            with server.lock:
                server.active -= 1
            self.log_entry()

    do_PUT = do_GET = do_HEAD = do_DELETE = do_POST = serve

    def log_entry(self):
        if self.logged:
            return
        self.logged = True
        self.server.write_ledger({
            "time": time.time(), "verb": self.verb, "bucket": self.bucket, "key": self.key,
            "status": self.sent_status, "stored": self.stored,
            "connection": "%s:%d" % self.client_address[:2], "active": self.active_now})

    def store(self):
        keep = {n.lower(): v for n, v in self.headers.items()
                if n.lower().startswith("x-amz-meta-") or n.lower() == "x-amz-storage-class"
                or n.lower().startswith("x-amz-server-side-encryption")}
        meta = self.server.objects.put(self.bucket, self.key, self.read_body(), keep,
                                       self.headers.get("If-None-Match") == "*")
        self.stored = True
        return meta

    def do_put(self, rule):
        meta = self.store()
        self.reply(200, b"", [("ETag", meta["etag"])])

    def object_headers(self, meta):
        return [("ETag", meta["etag"]), ("Last-Modified", formatdate(meta["time"], usegmt=True)),
                ("Accept-Ranges", "bytes")] + list(meta["headers"].items())

    def do_head(self, rule):
        meta, data = self.server.objects.get(self.bucket, self.key)
        self.reply(200, b"", self.object_headers(meta), length=len(data), head=True)

    def do_get(self, rule):
        action = rule.get("action")
        meta, data = self.server.objects.get(self.bucket, self.key)
        headers, status = self.object_headers(meta), 200
        m = re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range", ""))
        if m and action != "ignore-range":
            first = int(m[1])
            last = min(int(m[2]) if m[2] else len(data) - 1, len(data) - 1)
            if first > last:
                raise S3Error(416, "InvalidRange", "The requested range is not satisfiable")
            if action == "wrong-range":
                first += 1
            headers.append(("Content-Range", "bytes %d-%d/%d" % (first, last, len(data))))
            data, status = data[first:last + 1], 206
        if action == "corrupt" and data:
            data = data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + \
                data[len(data) // 2 + 1:]
        if action == "truncate":
            self.cut(status, data, headers)
        elif action == "stall-body":
            self.reply(status, data[:len(data) // 2], headers, length=len(data))
            self.stall()
        elif action == "no-length":
            self.close_connection = True
            self.reply(status, data, headers, length=-1)
        else:
            self.reply(status, data, headers)

    def do_delete(self, rule):
        self.server.objects.delete(self.bucket, self.key)
        self.reply(204)

    def do_list(self, rule):
        q, action = self.query, rule.get("action")
        v2 = q.get("list-type") == "2"
        prefix, delimiter = q.get("prefix", ""), q.get("delimiter", "")
        limit = min(int(q.get("max-keys", "1000")), 1000)
        marker = q.get("continuation-token") or q.get("start-after", "") if v2 \
            else q.get("marker", "")
        entries, common, truncated, last = [], [], False, marker
        for k in self.server.objects.keys(self.bucket, prefix, marker):
            at = k.find(delimiter, len(prefix)) if delimiter else -1
            group = k[:at + len(delimiter)] if at >= 0 else None
            if group and (common and common[-1] == group or group == marker):
                continue
            if len(entries) + len(common) == limit:
                truncated = True
                break
            last = group or k
            (common if group else entries).append(last)
        if action == "disorder":
            entries.reverse()
        out = ['<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult %s><Name>%s</Name>'
               '<Prefix>%s</Prefix><MaxKeys>%d</MaxKeys>'
               % (XMLNS, escape(self.bucket), escape(prefix), limit)]
        if v2:
            out.append("<KeyCount>%d</KeyCount>" % (len(entries) + len(common)))
            if truncated:
                out.append("<NextContinuationToken>%s</NextContinuationToken>" % escape(last))
        else:
            out.append("<Marker>%s</Marker>" % escape(marker))
            if truncated and delimiter:
                out.append("<NextMarker>%s</NextMarker>" % escape(last))
        if action == "loop-listing":
            truncated = True
            out.append("<NextMarker>%s</NextMarker>" % escape(marker))
        out.append("<IsTruncated>%s</IsTruncated>" % ("true" if truncated else "false"))
        for k in entries:
            m = self.server.objects.index[self.bucket].get(k)
            if m:
                out.append("<Contents><Key>%s</Key><LastModified>%s</LastModified><ETag>%s</ETag>"
                           "<Size>%d</Size><StorageClass>STANDARD</StorageClass></Contents>"
                           % (escape(k), iso(m["time"]), escape(m["etag"]), m["size"]))
        out += ["<CommonPrefixes><Prefix>%s</Prefix></CommonPrefixes>" % escape(p) for p in common]
        out.append("</ListBucketResult>")
        body = "".join(out).encode()
        headers = [("Content-Type", "application/xml")]
        if action == "truncate":
            self.cut(200, body, headers)
        elif action == "cut-listing":
            self.reply(200, body[:len(body) * 2 // 3], headers)
        else:
            self.reply(200, body, headers)

    # ---- faults

    def before(self, rule):
        """those that come in before the signature is looked at"""
        action = rule["action"]
        if action == "drip":
            self.drip = rule.get("delay", 0.05)
        elif action == "reset-before":
            self.reset()
        elif action == "stall" and rule.get("when") == "before":
            self.stall()
        elif action == "early-200":
            self.close_connection = True
            self.reply(200, b"", [("ETag", '"0"')])
            raise Reset()

    def instead(self, rule):
        """true: the answer has been given"""
        action = rule["action"]
        self.read_body()
        if rule.get("stored") or action == "store-then":
            etag = self.store()["etag"]
        else:
            etag = '"%s"' % hashlib.md5(self.body).hexdigest()
        if action == "reset-after":
            self.reset()
        elif action == "stall":
            self.stall()
        elif action in ("status", "store-then"):
            self.fault_status(rule)
        elif action == "redirect":
            self.reply(rule.get("status", 307), b"", [("Location", rule["location"])] +
                       list(rule.get("headers", {}).items()))
        elif action == "no-store":
            self.reply(200, b"", [("ETag", etag)] if rule.get("etag") else [])
        elif action in ("error-200", "error-listing"):
            self.reply(200, error_xml(rule.get("code", "InternalError"), "We had a problem."),
                       [("ETag", etag)] if action == "error-200" and rule.get("etag") else [])
        elif action == "truncate" and self.verb in ("PUT", "DELETE"):
            self.cut(200, error_xml("InternalError", "cut"), [("ETag", etag)])
        elif action == "html-listing":
            self.reply(200, HTML.encode(), [("Content-Type", "text/html")])
        elif action == "empty-listing":
            self.reply(200)
        elif action == "big-header":
            self.reply(200, b"", [("ETag", etag)] + [("X-Big-%d" % i, "x" * 4000)
                                                     for i in range(40)])
        elif action == "big-body":
            self.reply(rule.get("status", 500), b"x" * (4 << 20))
        elif action == "bomb":
            bomb = '<?xml version="1.0"?><!DOCTYPE z [<!ENTITY a "aaaaaaaaaa">'
            for i in range(12):
                bomb += '<!ENTITY %s "%s">' % (chr(98 + i), ("&%s;" % chr(97 + i)) * 10)
            self.reply(200, (bomb + "]><ListBucketResult><IsTruncated>false</IsTruncated>"
                                    "<Name>&m;</Name></ListBucketResult>").encode())
        else:
            return False
        return True

    def fault_status(self, rule):
        status = rule.get("status", 500 if rule["action"] == "store-then" else 503)
        headers = list(rule.get("headers", {}).items())
        body = rule.get("body", "").encode()
        if rule.get("code"):
            body = error_xml(rule["code"], rule.get("message", "scripted"), rule.get("extra", ""))
        elif rule.get("html"):
            body = HTML.encode()
        self.reply(status, body, headers, head=self.verb == "HEAD")

    # ---- control

    def control(self):
        server = self.server
        body = self.read_body()
        with server.lock:
            if self.path == "/_faults":
                server.rules = json.loads(body)
                out = {}
            elif self.path == "/_reset":
                server.rules, server.ledger = [], []
                server.stats["peak"] = 0
                out = {}
            elif self.path == "/_delete":
                gone = json.loads(body)
                out = [k for b in server.objects.index for k in gone if k in server.objects.index[b]]
                for b in server.objects.index:
                    for k in gone:
                        server.objects.delete(b, k)
            elif self.path == "/_buckets":
                only = json.loads(body)
                out = sorted(server.objects.index)
                for b in out:
                    for k in list(server.objects.index[b]) if b not in only else []:
                        server.objects.delete(b, k)
                server.objects.index = {b: server.objects.index.get(b, {}) for b in only}
            elif self.path == "/_ledger":
                out = server.ledger
            else:
                out = server.stats
            text = json.dumps(out).encode()
        self.reply(200, text, [("Content-Type", "application/json")])


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--dir", required=True, help="where the objects are kept")
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, default=0)
    p.add_argument("--bucket", action="append", default=[], help="create it; may be repeated")
    p.add_argument("--key-pair", action="append", default=[], metavar="ID:SECRET[:TOKEN]")
    p.add_argument("--region", default="us-east-1")
    p.add_argument("--cert")
    p.add_argument("--key")
    p.add_argument("--ledger", help="append the ledger to this file as well")
    p.add_argument("--until-eof", action="store_true", help="end when standard input ends")
    args = p.parse_args()
    server = Server(args)
    print(server.server_address[1], flush=True)
    if args.until_eof:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()
        os._exit(0)
    server.serve_forever()


if __name__ == "__main__":
    main()
