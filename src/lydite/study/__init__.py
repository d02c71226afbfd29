"""Studies: several recipes over one data set, from YAML to results."""
