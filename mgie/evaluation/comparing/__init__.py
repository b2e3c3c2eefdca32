"""Finished reports beside each other: intervals, differences, one page of them."""
