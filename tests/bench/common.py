"""What the benchmarks of one server share: the server itself, the load generator of tests/peers, the machine's memory."""
import argparse, importlib.machinery, importlib.util, json, mmap, os, re, signal, subprocess, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.normpath(os.path.join(HERE, "..", ".."))
_loader = importlib.machinery.SourceFileLoader("measure", os.path.join(ROOT, "tests", "peers", "measure"))
measure = importlib.util.module_from_spec(importlib.util.spec_from_loader("measure", _loader))
_loader.exec_module(measure)


def arguments(doc, **defaults):
    """Reads the command line: --binary (more than once), and an option for each default. Builds where no binary is named."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", action="append")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    read = parser.parse_args()
    if not read.binary:
        subprocess.run(["cargo", "build", "--release", "--quiet", "--manifest-path", f"{ROOT}/Cargo.toml"], check=True)
        read.binary = [f"{ROOT}/target/release/alluvium"]
    return read


def fill_page_cache(dir):
    """A virtual machine's host may take free pages back, and then the first touch of each costs more than all that is measured.
    Returns the file in `dir` that fills it."""
    free = int(re.search(r"^MemFree: +(\d+)", open("/proc/meminfo").read(), re.M).group(1)) >> 10
    filled = f"{dir}/fill"
    with open(filled, "wb") as file:
        for _ in range(free):
            file.write(bytes(1 << 20))
        os.fsync(file)
    return filled


def durable_rate(dir, secs=3):
    """MB/s that the device of `dir` makes durable: 256 KiB at a time past the page cache, each synced, over a file that is there."""
    size, pieces, path = 256 << 10, 256, f"{dir}/device"
    with mmap.mmap(-1, size) as piece, open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT), "wb", buffering=0) as file:
        piece.write(os.urandom(size))
        for at in range(pieces):
            os.pwrite(file.fileno(), piece, at * size)
        os.fsync(file)
        begun, written = time.monotonic(), 0
        while time.monotonic() < begun + secs:
            os.pwrite(file.fileno(), piece, written % (pieces * size))
            os.fdatasync(file)
            written += size
        rate = written / (time.monotonic() - begun) / 1e6
    os.unlink(path)
    return rate


class Server:
    """A server on free ports, ready; `ready_s` since it was started."""

    def __init__(self, binary, *args, data=None):
        where = ["--data-dir", data, "--port", "0", "--admin-listen", "127.0.0.1:0"] if data else ["--ephemeral"]
        begun = time.monotonic()
        self.process = subprocess.Popen([binary, "server", *where, "--print-ready", "json", *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        self.ready_s = time.monotonic() - begun
        if not line:
            raise RuntimeError(f"{binary} did not start: code {self.process.wait()}")
        ready = json.loads(line)
        self.bootstrap, self.admin, self.pid = ready["bootstrap"], ready["admin"], self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end(signal.SIGTERM)

    def end(self, signal):
        if self.process.poll() is None:
            self.process.send_signal(signal)
            self.process.wait()

    def kload_command(self, mode, topic, *args):
        return [measure.kload_bin(), mode, "-b", self.bootstrap, "-t", topic, *map(str, args)]

    def kload(self, mode, topic, *args):
        return json.loads(subprocess.run(self.kload_command(mode, topic, *args), stdout=subprocess.PIPE, check=True, text=True).stdout)

    def metric(self, name):
        metrics = urllib.request.urlopen(f"http://{self.admin}/metrics").read().decode()
        return float(re.search(rf"^{name} (\S+)", metrics, re.M).group(1))

    def cpu_s(self):
        return measure.cpu([self.pid])

    def rss_mb(self):
        return measure.status([self.pid], "VmRSS")
