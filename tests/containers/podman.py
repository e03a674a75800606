"""podman as the tests use it, and the containers that the documented files describe."""
import os
import re
import subprocess

import yaml


class Failed(Exception):
    pass


def command(argv, timeout_s=60, may_fail=False, **how):
    """What a command said on both its outputs; with `may_fail`, its exit code before that."""
    done = subprocess.run(argv, check=False, stdin=how.pop("stdin", subprocess.DEVNULL), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", timeout=timeout_s, **how)
    if may_fail:
        return done.returncode, done.stdout
    if done.returncode:
        raise Failed(f"{' '.join(argv[-6:])}: exit code {done.returncode}: {done.stdout[-1500:]}")
    return done.stdout


class Podman:
    """Everything of it is below `space`. runc and cgroupfs are what runs where there is no systemd."""

    def __init__(self, space, cgroup):
        self.cgroup = cgroup
        self.argv = ["podman", "--root", f"{space}/storage", "--runroot", f"{space}/runroot", "--tmpdir", f"{space}/tmp",
                     "--storage-driver", "overlay", "--runtime", "runc", "--cgroup-manager", "cgroupfs",
                     "--events-backend", "file"]

    def __call__(self, *words, timeout_s=60, may_fail=False, **how):
        return command([*self.argv, *words], timeout_s, may_fail, **how)

    def start(self, name, options, what, arguments=(), wait=False):
        """A container in the background; `wait`: in the foreground, to its end."""
        mode = ["--rm"] if wait else ["--detach"]
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
        return self("run", *mode, "--name", name, "--cgroup-parent", "/" + self.cgroup, *limits, *options, *what, *arguments,
                    timeout_s=120)

    def remove(self, *names):
        for name in names:
            self("rm", "--force", "--time", "20", "--ignore", name, timeout_s=90)


class Form:
    """A container as a documented file describes it: options of `podman run`, and what is run in it."""

    def __init__(self, options, arguments=(), entrypoint=None):
        self.options = list(options)
        self.arguments = [str(word) for word in arguments]
        if entrypoint:
            self.options += ["--entrypoint", entrypoint[0]]
            self.arguments = [*entrypoint[1:], *self.arguments]


def substituted(text, uid, gid):
    """The files have the numbers of Odoo's user in its image; here it is another one's."""
    text = re.sub(r'(-o |--owner, "|owner = ")101', rf"\g<1>{uid}", text)
    return re.sub(r'(-g |--group, "|group = ")101', rf"\g<1>{gid}", text)


def compose(path, service, uid, gid):
    """A service of a compose file. Every key has to be understood: one that is not is an error."""
    with open(path) as file:
        told = dict(yaml.safe_load(substituted(file.read(), uid, gid))["services"][service])
    # Where images come from, what other services do, and what only Compose does.
    for key in ("image", "build", "environment", "ports", "restart", "healthcheck", "stop_grace_period", "depends_on"):
        told.pop(key, None)
    options = []
    if "pid" in told:
        options += ["--pid", told.pop("pid")]
    if "network_mode" in told:
        options += ["--network", told.pop("network_mode")]
    for device in told.pop("devices", []):
        options += ["--device", device]
    for capability in told.pop("cap_add", []):
        options += ["--cap-add", capability]
    for place in told.pop("tmpfs", []):
        options += ["--tmpfs", place]
    for option in told.pop("security_opt", []):
        options += ["--security-opt", option]
    for volume in told.pop("volumes", []):
        if isinstance(volume, dict):
            unknown = set(volume) - {"type", "source", "target", "bind"}
            if unknown or volume["type"] != "bind":
                raise Failed(f"{path}: a volume with {unknown or volume['type']}")
            options += ["-v", f"{volume['source']}:{volume['target']}:{volume['bind']['propagation']}"]
        else:
            options += ["-v", volume]
    arguments = told.pop("command", [])
    if told:
        raise Failed(f"{path}: {service}: nothing is known of {', '.join(told)}")
    return Form(options, arguments)


def documents(path, uid, gid):
    with open(path) as file:
        return list(yaml.safe_load_all(substituted(file.read(), uid, gid)))


def pod(path, kind, name, uid, gid):
    """The template of a pod in a manifest."""
    for document in documents(path, uid, gid):
        if (document["kind"], document["metadata"]["name"]) == (kind, name):
            return document["spec"]["template"]["spec"]
    raise Failed(f"{path}: no {kind} {name}")


PROPAGATION = {"HostToContainer": "rslave", "Bidirectional": "rshared", None: "rprivate"}


def container(spec, name, places):
    """A container of a pod. `places` says where on the host its volumes are."""
    told = next(dict(found) for found in spec.get("initContainers", []) + spec["containers"] if found["name"] == name)
    options = []
    if spec.get("hostPID"):
        options += ["--pid", "host"]
    elif spec.get("shareProcessNamespace"):
        options += ["--pid", "container:pause"]
    privileged = told.get("securityContext", {}).get("privileged", False)
    if privileged:
        options.append("--privileged")
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    for mount in told["volumeMounts"]:
        if volumes[mount["name"]].get("emptyDir", {}).get("medium") == "Memory":
            options += ["--tmpfs", mount["mountPath"] + ":mode=777"]
            continue
        place = places.get(mount["name"]) or volumes[mount["name"]]["hostPath"]["path"]
        if "subPath" in mount:
            place = os.path.join(place, mount["subPath"])
        propagation = mount.get("mountPropagation")
        if propagation == "Bidirectional" and not privileged:
            raise Failed(f"{name}: Kubernetes refuses Bidirectional without privileged")
        options += ["-v", f"{place}:{mount['mountPath']}:{PROPAGATION[propagation]}"]
    return Form(options, told.get("args", []), told.get("command"))
