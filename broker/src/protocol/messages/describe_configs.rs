//! DescribeConfigs (32) describes configurations: KIP-133, KIP-226 sources and synonyms v1, KIP-569 types and documentation v3.

use super::{
    super::primitive::{DecodeError, Field, Reader, Str, Writer},
    Request, carries, default_of, message, nullable_in, tag_of,
};

message! {
    /// The request that describes configurations.
    DescribeConfigsRequest {
        resources: Vec<DescribeConfigsResource> = ..;
        include_synonyms: bool = 1..;
        include_documentation: bool = 3..;
    }
}

impl Request for DescribeConfigsRequest {
    const KEY: i16 = 32;
    const FLEXIBLE: i16 = 4;
    type Response = DescribeConfigsResponse;
}

message! {
    /// A topic or broker.
    DescribeConfigsResource {
        resource_type: i8 = ..;
        resource_name: Str = ..;
        configuration_keys: Option<Vec<Str>> = ..;
    }
}

message! {
    /// The answer.
    DescribeConfigsResponse {
        throttle_time_ms: i32 = ..;
        results: Vec<DescribeConfigsResult> = ..;
    }
}

message! {
    /// The configurations of one resource.
    DescribeConfigsResult {
        error_code: i16 = ..;
        error_message: Option<Str> = ..;
        resource_type: i8 = ..;
        resource_name: Str = ..;
        configs: Vec<DescribeConfigsResourceResult> = ..;
    }
}

message! {
    /// One configuration.
    DescribeConfigsResourceResult {
        name: Str = ..;
        value: Option<Str> = ..;
        read_only: bool = ..;
        is_default: bool = ..=0;
        config_source: i8 = 1.., default -1;
        is_sensitive: bool = ..;
        synonyms: Vec<DescribeConfigsSynonym> = 1..;
        config_type: i8 = 3..;
        documentation: Option<Str> = 3..;
    }
}

message! {
    /// A name under which the value was looked for, and what it is there.
    DescribeConfigsSynonym {
        name: Str = 1..;
        value: Option<Str> = 1..;
        source: i8 = 1..;
    }
}
