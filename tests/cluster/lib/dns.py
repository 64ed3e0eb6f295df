"""DNS for cluster.local, from the API server's Services and Endpoints.

Debian has no CoreDNS. This answers what CoreDNS answers for Services: A (cluster IP, or the ready
addresses of a headless service), names of a headless service's pods, SRV for named ports, CNAME for
ExternalName. Every other name gets NXDOMAIN, for nothing outside the cluster can be reached.
"""
import argparse
import http.client
import json
import logging
import socket
import socketserver
import ssl
import struct
import threading
import time
import urllib.parse

ZONE = "cluster.local"
A, NS, CNAME, SOA, PTR, AAAA, SRV, ANY = 1, 2, 5, 6, 12, 28, 33, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN = 0, 1, 2, 3
TTL = 1  # a changed Service is seen at the next look-up


def records_of(service, endpoints):
    """The records of one Service: {name: [(type, value)]}; value is an address, name or SRV tuple."""
    meta, spec = service["metadata"], service.get("spec", {})
    name = f"{meta['name']}.{meta['namespace']}.svc.{ZONE}"
    records = {name: []}
    if spec.get("type") == "ExternalName":
        records[name].append((CNAME, spec["externalName"].rstrip(".").lower()))
        return records
    if spec.get("clusterIP") not in (None, "", "None"):
        records[name].append((A, spec["clusterIP"]))
        for port in spec.get("ports", []):
            add_srv(records, name, port, name)
        return records
    unready_too = spec.get("publishNotReadyAddresses", False)
    for subset in (endpoints or {}).get("subsets") or []:
        addresses = list(subset.get("addresses") or [])
        if unready_too:
            addresses += subset.get("notReadyAddresses") or []
        for address in addresses:
            host = address.get("hostname") or address["ip"].replace(".", "-")
            pod = f"{host}.{name}"
            records[name].append((A, address["ip"]))
            records.setdefault(pod, []).append((A, address["ip"]))
            for port in subset.get("ports") or []:
                add_srv(records, name, port, pod)
    return records


def add_srv(records, name, port, target):
    if port.get("name"):
        key = f"_{port['name']}._{port.get('protocol', 'TCP').lower()}.{name}"
        records.setdefault(key, []).append((SRV, (0, 100, port["port"], target)))


class Zone:
    """All records, replaced per Service as objects change."""

    def __init__(self):
        self.lock = threading.Lock()
        self.objects = {"services": {}, "endpoints": {}}
        self.records = {}
        self.parents = {}
        self.synced = set()

    def replace(self, resource, objects):
        with self.lock:
            self.objects[resource] = {key(o): o for o in objects}
            self.synced.add(resource)
            self.rebuild()

    def change(self, resource, kind, obj):
        with self.lock:
            if kind == "DELETED":
                self.objects[resource].pop(key(obj), None)
            else:
                self.objects[resource][key(obj)] = obj
            self.rebuild()

    def rebuild(self):
        records, parents = {}, {f"svc.{ZONE}", ZONE}
        for name, service in self.objects["services"].items():
            parents.add(f"{name[0]}.svc.{ZONE}")
            records.update(records_of(service, self.objects["endpoints"].get(name)))
        self.records, self.parents = records, parents

    def ready(self):
        return len(self.synced) == 2

    def look_up(self, name, kind):
        """(code, [(name, type, value)]): an existing name without such a record is NOERROR, empty."""
        records, answers = self.records, []
        for _ in range(8):
            found = records.get(name)
            if found is None:
                known = name in self.parents or answers
                return (NOERROR if known else NXDOMAIN), answers
            alias = next((value for t, value in found if t == CNAME), None)
            if alias is None or kind == CNAME:
                return NOERROR, answers + [(name, t, v) for t, v in found if kind in (t, ANY)]
            answers.append((name, CNAME, alias))
            name = alias
        return SERVFAIL, []


def key(obj):
    return obj["metadata"]["namespace"], obj["metadata"]["name"]


def watch(zone, resource, connect):
    """List, then watch; list again whenever the watch ends. The last known records stay meanwhile."""
    while True:
        try:
            connection = connect(30)
            connection.request("GET", f"/api/v1/{resource}")
            listed = read_json(connection.getresponse())
            zone.replace(resource, listed["items"])
            version = listed["metadata"]["resourceVersion"]
            connection.close()
            connection = connect(330)
            query = urllib.parse.urlencode({"watch": "1", "resourceVersion": version, "timeoutSeconds": 300})
            connection.request("GET", f"/api/v1/{resource}?{query}")
            for line in connection.getresponse():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    break
                zone.change(resource, event["type"], event["object"])
        except Exception as error:  # whatever it was, the answer is to list again
            logging.warning("watching %s: %s", resource, error)
            time.sleep(0.3)


def read_json(response):
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"status {response.status}: {body[:200]!r}")
    return json.loads(body)


def encode_name(name):
    return b"".join(bytes([len(label)]) + label for label in name.encode().split(b".") if label) + b"\0"


def encode_record(name, kind, value):
    if kind == A:
        data = socket.inet_aton(value)
    elif kind == SRV:
        data = struct.pack("!HHH", *value[:3]) + encode_name(value[3])
    else:
        data = encode_name(value)
    return encode_name(name) + struct.pack("!HHIH", kind, 1, TTL, len(data)) + data


def answer(zone, query, limit):
    """The reply to one message, or None for what is not even a query."""
    if len(query) < 12:
        return None
    ident, flags, questions = struct.unpack("!HHH", query[:6])
    if flags & 0x8000:
        return None
    try:
        if questions != 1:
            raise ValueError("not one question")
        labels, at = [], 12
        while query[at]:
            size = query[at]
            if size > 63 or at + size >= len(query):
                raise ValueError("bad label")
            labels.append(query[at + 1 : at + 1 + size].decode("ascii"))
            at += size + 1
        kind, _ = struct.unpack("!HH", query[at + 1 : at + 5])
        question = query[12 : at + 5]
    except (ValueError, IndexError, UnicodeDecodeError, struct.error):
        return struct.pack("!HHHHHH", ident, 0x8400 | FORMERR, 0, 0, 0, 0)
    if zone.ready():
        code, found = zone.look_up(".".join(labels).lower(), kind)
    else:
        code, found = SERVFAIL, []
    flags = 0x8480 | (flags & 0x0100) | code  # a reply, authoritative, recursion "available"
    body, count = b"", 0
    for record in found:
        encoded = encode_record(*record)
        if 12 + len(question) + len(body) + len(encoded) > limit:
            flags |= 0x0200  # truncated: ask again over TCP
            break
        body, count = body + encoded, count + 1
    return struct.pack("!HHHHHH", ident, flags, 1, count, 0, 0) + question + body


class Udp(socketserver.BaseRequestHandler):
    def handle(self):
        query, sock = self.request
        reply = answer(self.server.zone, query, 512)
        if reply:
            sock.sendto(reply, self.client_address)


class Tcp(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.settimeout(10)
        stream = self.request.makefile("rb")
        while len(size := stream.read(2)) == 2:
            reply = answer(self.server.zone, stream.read(struct.unpack("!H", size)[0]), 65535)
            if not reply:
                return
            self.request.sendall(struct.pack("!H", len(reply)) + reply)


class UdpServer(socketserver.UDPServer):
    allow_reuse_address = True
    max_packet_size = 4096


class TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("listen", "server", "ca", "cert", "key"):
        parser.add_argument(f"--{option}", required=True)
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    context = ssl.create_default_context(cafile=options.ca)
    context.load_cert_chain(options.cert, options.key)
    address = urllib.parse.urlsplit(options.server)

    def connect(timeout):
        return http.client.HTTPSConnection(address.hostname, address.port, context=context, timeout=timeout)

    zone = Zone()
    for resource in ("services", "endpoints"):
        threading.Thread(target=watch, args=(zone, resource, connect), daemon=True).start()
    servers = [UdpServer((options.listen, 53), Udp), TcpServer((options.listen, 53), Tcp)]
    for server in servers:
        server.zone = zone
    threading.Thread(target=servers[1].serve_forever, daemon=True).start()
    logging.info("serving %s on %s", ZONE, options.listen)
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
