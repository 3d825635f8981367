"""Where workflow runs are kept."""
