"""The test bed: a few hosts with sshd and Docker of their own, on one machine, without a registry or a way out."""
