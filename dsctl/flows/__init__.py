"""One runbook a verb: gather facts, plan, show, lock, apply, verify."""
