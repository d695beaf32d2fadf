"""Everything decided before anything starts: recipe x cluster -> Plan. Torch-free: it runs on a login node."""
