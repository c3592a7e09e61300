"""What ``doctor`` runs in a child for each backend, whose libraries may crash while they load.

The backend's name is the one argument; the last line of stdout is
:func:`~fcn_deploy.runtimes.registry.diagnose`'s result as JSON.
"""

from __future__ import annotations

import json
import sys

from fcn_deploy.runtimes.registry import diagnose

if __name__ == "__main__":
    print(json.dumps(diagnose(sys.argv[1])))
