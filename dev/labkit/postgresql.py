# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL server on a machine of a lab: a cluster in the machine's folder, run by the user "postgres" (PostgreSQL refuses
root), reached by password over the lab's network. It ends with the lab."""

import pathlib
import secrets
import shutil
import subprocess

from .machines import LabError

PORT = 5432
USER = DATABASE = "drover"


def programs():
    """The folder with initdb and postgres: the newest that Debian has installed."""
    found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise LabError("PostgreSQL is not installed: dev/install-packages")
    return found[-1].parent


class Server:
    def __init__(self, machines, machine, folder, address):
        self.machines, self.machine, self.folder, self.address = machines, machine, pathlib.Path(folder), address

    def create(self, network):
        """Makes the cluster with the database, and starts it. `network`: who may connect, such as 10.77.0.0/16."""
        self.folder.mkdir(exist_ok=True)
        shutil.chown(self.folder, "postgres", "postgres")
        self._as_postgres(programs() / "initdb", "-D", self.folder / "data", "-U", "admin", "-A", "trust", "-E", "UTF8",
                          "--locale=C.UTF-8", "--no-sync", "--no-instructions")
        with open(self.folder / "data/pg_hba.conf", "a", encoding="utf-8") as access:
            access.write(f"host {DATABASE} {USER} {network} scram-sha-256\n")
        password = secrets.token_hex(16)
        (self.folder / "password").write_text(password, encoding="ascii")
        self.start()
        self.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{password}'", "postgres")
        self.sql(f"CREATE DATABASE {DATABASE} OWNER {USER}", "postgres")

    def start(self):
        self._as_postgres(programs() / "pg_ctl", "-D", self.folder / "data", "-l", self.folder / "postgresql.log", "-w", "-s",
                          "-o", f"-c listen_addresses={self.address} -c unix_socket_directories={self.folder} "
                          "-c fsync=off", "start")

    def stop(self, mode="immediate"):
        """immediate: as when it crashes."""
        self._as_postgres(programs() / "pg_ctl", "-D", self.folder / "data", "-w", "-s", "-m", mode, "stop")

    def sql(self, text, database=DATABASE):
        """What a statement gives, as text; as superuser."""
        return self._as_postgres("psql", "-h", self.folder, "-U", "admin", "-d", database, "-Atqc", text).strip()

    def url(self, passfile):
        """What a manager's setting `store` needs; the password goes into passfile."""
        password = (self.folder / "password").read_text(encoding="ascii")
        passfile.touch(mode=0o600)
        passfile.write_text(f"{self.address}:{PORT}:{DATABASE}:{USER}:{password}\n", encoding="ascii")
        return f"postgresql://{USER}@{self.address}:{PORT}/{DATABASE}?passfile={passfile}"

    def _as_postgres(self, *command):
        # Not captured by a pipe: the server, which stays, would hold it open.
        with open(self.folder / "output", "w+", encoding="utf-8", errors="replace") as output:
            done = subprocess.run(
                [*self.machines.enter(self.machine), "setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups",
                 "--", *map(str, command)], stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, cwd="/")
            output.seek(0)
            text = output.read()
        if done.returncode != 0:
            raise LabError(f"{self.machine}: {' '.join(map(str, command))}: {text.strip()}")
        return text
