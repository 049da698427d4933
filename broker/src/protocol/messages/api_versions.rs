//! ApiVersions (18): KIP-511 client software v3, KIP-584 features v3, KIP-1022 zero minima v4.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// Asks which APIs and versions are served.
    ApiVersionsRequest {
        client_software_name: Str = 3..;
        client_software_version: Str = 3..;
    }
}

impl Request for ApiVersionsRequest {
    const KEY: i16 = 18;
    const FLEXIBLE: i16 = 3;
    type Response = ApiVersionsResponse;
}

message! {
    /// The APIs and versions served. Its header is never flexible.
    ApiVersionsResponse {
        error_code: i16 = ..;
        api_keys: Vec<ApiVersion> = ..;
        throttle_time_ms: i32 = 1..;
        supported_features: Vec<SupportedFeature> = 3.., tag 0;
        finalized_features_epoch: i64 = 3.., tag 1, default -1;
        finalized_features: Vec<FinalizedFeature> = 3.., tag 2;
        zk_migration_ready: bool = 3.., tag 3;
    }
}

message! {
    /// An API and its versions.
    ApiVersion {
        api_key: i16 = ..;
        min_version: i16 = ..;
        max_version: i16 = ..;
    }
}

message! {
    /// A feature this broker can have.
    SupportedFeature {
        name: Str = ..;
        min_version: i16 = ..;
        max_version: i16 = ..;
    }
}

message! {
    /// A feature the cluster has.
    FinalizedFeature {
        name: Str = ..;
        max_version_level: i16 = ..;
        min_version_level: i16 = ..;
    }
}
