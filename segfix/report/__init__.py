"""Pictures that show what refinement did."""
