"""Everything decided before anything starts: recipe x cluster -> Plan. It runs on a login node, without torch."""
