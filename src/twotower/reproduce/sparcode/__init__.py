"""SparCode's table: its models beside their two-tower twins, and what lists of either keep."""
