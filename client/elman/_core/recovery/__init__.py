"""Sessions that outlive their RPC: when they are resumed, what is pushed again, when it is
given up."""
