"""What measurements and gates share: the programs as built, a clean environment, an end."""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = pathlib.Path(os.environ.get("WALSUP_OUT", ROOT / "build" / "release"))
ENV = {k: v for k, v in os.environ.items()
       if not k.startswith(("AWS_", "LITESTREAM_", "WALSUP_", "NOTIFY_"))}
TICK = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    pass


class Process:
    """something that runs beside the measurement and is always ended"""

    proc = None

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.stop()

    def stop(self):
        """whether it ended when it was asked to"""
        if self.proc and self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
            try:
                self.proc.wait(60)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
                return False
        return True

    def cpu(self):
        """CPU seconds so far"""
        fields = pathlib.Path(f"/proc/{self.proc.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def idle_cpu(self, seconds):
        """CPU share over so long a time, once what the last commit led to is done"""
        cpu, end = -1.0, time.monotonic() + 20
        while self.cpu() != cpu and time.monotonic() < end:
            cpu = self.cpu()
            time.sleep(1)
        t0, cpu = time.monotonic(), self.cpu()
        time.sleep(seconds)
        return (self.cpu() - cpu) / (time.monotonic() - t0)

    def memory(self):
        text = pathlib.Path(f"/proc/{self.proc.pid}/status").read_text()
        kib = {k: int(re.search(rf"^{k}:\s+(\d+)", text, re.M)[1])
               for k in ("VmRSS", "VmHWM", "Threads")}
        return {"rss_mib": kib["VmRSS"] / 1024, "peak_mib": kib["VmHWM"] / 1024,
                "threads": kib["Threads"],
                "descriptors": len(os.listdir(f"/proc/{self.proc.pid}/fd"))}


def call(path, method, **parameters):
    """the answer of a walsupd by its control socket, as bytes"""
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(str(path))
        text = json.dumps({"method": f"io.walsup.{method}", "parameters": parameters})
        s.sendall(text.encode() + b"\0")
        reply = bytearray()
        while not reply.endswith(b"\0"):
            piece = s.recv(1 << 20)
            if not piece:
                raise Failed(f"{method}: cut off after {len(reply)} bytes")
            reply += piece
    return bytes(reply[:-1])
