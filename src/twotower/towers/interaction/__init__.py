"""Units that let a query meet the events of a history: attention and recurrent forms."""
