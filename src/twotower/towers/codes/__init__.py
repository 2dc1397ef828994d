"""Users as codes: tokenizers make some tokens of a history, a quantiser puts the nearest code in each one's place."""
