"""A pool by a Serve configuration file: `import_path: raybox_cluster.serve_config:build`.

For clusters that are described by files, KubeRay's RayService above all: whoever applies the file, and applies it again
after the cluster was lost, has the pool with it. `args` are the options of `raybox up` as its YAML file has them.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from raybox_cluster.config import OptionError, UpOptions, of_plain, option_name

#: What Serve's own settings and the cluster itself say, and a key that would stand in the file in the clear.
NOT_HERE = ("host", "port", "address", "api_key")
IN_THIS_CLUSTER = "auto"


def options_of(args: Mapping[str, Any]) -> UpOptions:
    """The pool's options. Raises OptionError for what does not belong here, and when there is no key. Pure."""
    plain = of_plain(args, "args")
    if wrong := [option_name(name) for name in NOT_HERE if name in plain]:
        raise OptionError("args", f"{', '.join(wrong)} cannot be given here")
    options = UpOptions(**{**plain, "address": IN_THIS_CLUSTER})  # type: ignore[arg-type]  # checked by UpOptions
    if not options.api_keys:
        raise OptionError("args", "api-keys: give at least one key; `raybox key` makes one, and its hash for here")
    return options


def build(args: dict[str, Any]) -> Any:
    """Serve's application builder: the gateway, and the pool's manager, which is started here and outlives it.

    Called again, with the same or other options, it adopts the pool that runs. Raises OptionError, and UserError when
    the options differ in what cannot change under living sandboxes; Serve then says so and leaves all as it was.
    """
    from raybox_cluster.deploy import Running, adopted_config
    from raybox_cluster.pool.adoption import end_manager, running_config
    from raybox_cluster.pool.up_down import start_pool
    from raybox_cluster.serve_app import application

    options = options_of(args)
    running = running_config(options.name)
    if running is None:
        config = options.pool(secrets.token_bytes(32))
    else:
        config = adopted_config(Running(running), options)
        end_manager(running, and_fronts=True)  # which keys they were told of is not known
    start_pool(config, options.api_keys)
    return application(config, options.api_keys, replicas=options.gateways)
