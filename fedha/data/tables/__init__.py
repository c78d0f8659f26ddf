"""A data set of tables: a CSV or Parquet file a domain, or a column that says which domain a row is of."""

from fedha.data.tables.load import table

__all__ = ["table"]
