"""NetworkPolicies as a network that enforces them would read them, and the connections that pods have.

The node's network stores policies without enforcing them, so the tests compare: every connection that exists
must be one that the policies allow.
"""

import ipaddress
import os
import socket
import struct


def _matches(selector, labels):
    if any(labels.get(key) != value for key, value in selector.get("matchLabels", {}).items()):
        return False
    for rule in selector.get("matchExpressions", []):
        value = labels.get(rule["key"])
        if not {"In": value in rule.get("values", []), "NotIn": value not in rule.get("values", []),
                "Exists": value is not None, "DoesNotExist": value is None}[rule["operator"]]:
            return False
    return True


class Policies:
    """All policies of a cluster. Pods are their API objects; a peer that is no pod is an address."""

    def __init__(self, policies, namespaces):
        self.policies = policies
        self.namespaces = {n["metadata"]["name"]: n["metadata"].get("labels", {}) for n in namespaces}

    def _peer_fits(self, peer, policy, other):
        if isinstance(other, str):
            block = peer.get("ipBlock")
            return bool(block) and ipaddress.ip_address(other) in ipaddress.ip_network(block["cidr"]) and not any(
                ipaddress.ip_address(other) in ipaddress.ip_network(out) for out in block.get("except", []))
        if "ipBlock" in peer:
            return False
        namespace = other["metadata"]["namespace"]
        if "namespaceSelector" in peer:
            if not _matches(peer["namespaceSelector"], self.namespaces[namespace]):
                return False
        elif namespace != policy["metadata"]["namespace"]:
            return False
        return _matches(peer.get("podSelector", {}), other["metadata"].get("labels", {}))

    def _rule_fits(self, rule, key, policy, other, port):
        ports = rule.get("ports")
        if ports and not any(p.get("protocol", "TCP") == "TCP"
                             and p.get("port", port) <= port <= p.get("endPort", p.get("port", port)) for p in ports):
            return False
        peers = rule.get(key)
        return not peers or any(self._peer_fits(peer, policy, other) for peer in peers)

    def _selecting(self, pod, direction):
        return [p for p in self.policies
                if p["metadata"]["namespace"] == pod["metadata"]["namespace"] and direction in p["spec"]["policyTypes"]
                and _matches(p["spec"]["podSelector"], pod["metadata"].get("labels", {}))]

    def is_isolated(self, pod):
        """Both directions are closed but for what a policy opens."""
        return bool(self._selecting(pod, "Ingress")) and bool(self._selecting(pod, "Egress"))

    def lets_in(self, pod, other, port):
        selecting = self._selecting(pod, "Ingress")
        return not selecting or any(self._rule_fits(rule, "from", p, other, port)
                                    for p in selecting for rule in p["spec"].get("ingress", []))

    def lets_out(self, pod, other, port):
        selecting = self._selecting(pod, "Egress")
        return not selecting or any(self._rule_fits(rule, "to", p, other, port)
                                    for p in selecting for rule in p["spec"].get("egress", []))


def _endpoint(text):
    address, port = text.split(":")
    raw = bytes.fromhex(address)
    if len(raw) == 4:
        return socket.inet_ntoa(struct.pack("<I", int.from_bytes(raw))), int(port, 16)
    words = struct.unpack(">4I", raw)
    ip = ipaddress.IPv6Address(struct.pack("<4I", *words))
    return str(ip.ipv4_mapped or ip), int(port, 16)


def tcp_connections(pid):
    """(ports it listens at, {(local address, local port, peer address, peer port)}) of a process's network."""
    listening, connected = set(), set()
    for name in ("tcp", "tcp6"):
        path = f"/proc/{pid}/net/{name}"
        if not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as file:
            for line in file.readlines()[1:]:
                local, peer, state = line.split()[1:4]
                local, peer = _endpoint(local), _endpoint(peer)
                if state == "0A":
                    listening.add(local[1])
                elif state == "01" and not ipaddress.ip_address(peer[0]).is_loopback:
                    connected.add((*local, *peer))
    return listening, connected
