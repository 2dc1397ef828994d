"""Users as codes: tokenizers turn a history into tokens, a quantiser replaces each by its nearest code."""
