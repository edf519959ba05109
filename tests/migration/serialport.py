# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtio-serial device with one port, number 1 (queues 4 and 5), on a socket of the test."""

import socket

from ferrytest import scaled


class SerialPort:
    count = 0

    def __init__(self, case):
        SerialPort.count += 1
        self.case = case
        path = case.path(f"port{SerialPort.count}")
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(path)
        self.sock.listen(1)
        self.sock.settimeout(scaled(10))
        case.addCleanup(self.sock.close)
        self.arguments = ("-chardev", f"socket,id=port,path={path}", "-device",
                          "virtio-serial-device", "-device", "virtserialport,chardev=port,nr=1")

    def accept(self):
        peer = self.sock.accept()[0]
        peer.settimeout(scaled(10))
        self.case.addCleanup(peer.close)
        return peer
