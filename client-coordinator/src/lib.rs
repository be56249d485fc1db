//! The client coordinator: gRPC service, REST gateway, read path through the cache.
