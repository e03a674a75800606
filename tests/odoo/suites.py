"""Odoo 19's own tests of what it does with sessions, with the session directory under test."""
import collections
import re

from checks import check

SUITES = ("test_http", "bus", "auth_timeout", "auth_totp")
SUITES_S = 600
# Fewer would mean that something is missing which they need. Those that need one of these are not counted.
AT_LEAST = 222
NOT_HERE = ("Chrome executable not found", "crm is not installed")


class OwnSuites:
    def own_suites(self):
        """Run as Odoo's own CI does: in one process without workers, by --test-tags."""
        odoo = self.lab.run_odoo("odoo-suites", self.lab.threaded, "suites", "sessionfs_suites", SUITES_S,
                                 "--stop-after-init", "--test-tags=" + ",".join("/" + suite for suite in SUITES))
        said = "".join(line for line in odoo.lines if line)
        result = re.search(r" (\d+) failed, (\d+) error\(s\) of (\d+) tests when loading", said)
        check(result, f"no result; the log ends: {odoo.tail()}")
        failed, errors, tests = map(int, result.groups())
        names = re.findall(r" ERROR suites \S+: ((?:FAIL|ERROR): .*)", said)
        check(failed + errors == 0, f"{failed} failed, {errors} errors of {tests}: {'; '.join(names)}")
        skipped = collections.Counter(re.findall(r": skipped \S+ : (.*\S)", said))
        strange = [reason for reason in skipped if reason not in NOT_HERE]
        check(not strange, f"left out for {strange}")
        ran = tests - sum(skipped.values())
        check(ran >= AT_LEAST, f"only {ran} tests ran instead of {AT_LEAST}")
        check(odoo.child.returncode == 0, f"all passed, yet Odoo ended with {odoo.child.returncode}")
        return f"{ran} tests of {', '.join(SUITES)}"
