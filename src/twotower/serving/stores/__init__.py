"""Vectors of a bundle as files in the form that each vector store loads: Qdrant, Milvus, OpenSearch, pgvector."""
