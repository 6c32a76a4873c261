"""The gRPC services on grpcio. Only this package imports grpc."""
