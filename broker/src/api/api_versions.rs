//! ApiVersions (18), versions 0 to 4: which APIs and versions are served.
//!
//! | version | brings |
//! | --- | --- |
//! | 1 | throttle time |
//! | 3 | flexible body (its response header never is), the client's software (KIP-511), features (KIP-584) |
//! | 4 | supported features with minimum 0 (KIP-1022) |
//!
//! A version that is not served is answered in version 0 with error 35 and the range of ApiVersions itself, without a
//! look at the body: the client tries again within it. No feature is told: those that exist so far (`metadata.version`,
//! `transaction.version`, `group.version`, ..) all stand for what is not here.

use std::sync::Arc;

use super::{APIS, Broker, Context};
use crate::protocol::{
    ErrorCode, Request, Str,
    messages::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse},
};

/// Answers a request.
pub async fn handle(_: &Arc<Broker>, context: &Context, request: ApiVersionsRequest) -> ApiVersionsResponse {
    let software = [&request.client_software_name, &request.client_software_version];
    if context.version >= 3 && !software.into_iter().all(is_software) {
        return ApiVersionsResponse {
            error_code: ErrorCode::InvalidRequest.number(),
            ..ApiVersionsResponse::default()
        };
    }
    ApiVersionsResponse { api_keys: keys(), ..ApiVersionsResponse::default() }
}

/// The answer to a version that is not served, to be sent in version 0.
pub fn unsupported() -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.number(),
        api_keys: keys().into_iter().filter(|api| api.api_key == ApiVersionsRequest::KEY).collect(),
        ..ApiVersionsResponse::default()
    }
}

fn keys() -> Vec<ApiVersion> {
    APIS.iter()
        .map(|api| ApiVersion { api_key: api.key, min_version: api.min, max_version: api.max })
        .collect()
}

/// Whether a software name or version is `[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?`.
fn is_software(text: &Str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    ends(bytes.first())
        && ends(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves: V2.
    #[test]
    fn software_names_are_letters_digits_dots_and_hyphens_inside() {
        for good in ["a", "1", "librdkafka", "apache-kafka-java", "4.3.1", "v1.0.0-rc.1", "a--b"] {
            assert!(is_software(&good.into()), "{good}");
        }
        for bad in ["", "-", "a-", "-a", ".1", "a b", "a_b", "\u{e9}", "a\n"] {
            assert!(!is_software(&bad.into()), "{bad}");
        }
    }

    /// Proves: V5, V8.
    #[test]
    fn ranges_that_old_clients_derive_features_from() {
        let range = |key: i16| {
            keys().iter().find(|api| api.api_key == key).map(|api| (api.min_version, api.max_version))
        };
        assert_eq!(range(0), Some((0, 13)));
        assert!(range(22).is_some_and(|(_, max)| max < 6));
    }
}
