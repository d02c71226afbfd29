"""From a detector and a manifest to scores, and from scores to every number that is quoted."""
