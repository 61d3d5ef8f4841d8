//! The built-in page, compiled into the binary.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};

struct Asset {
    path: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

const ASSETS: [Asset; 4] = [
    Asset {
        path: "/",
        media_type: "text/html; charset=utf-8",
        bytes: include_bytes!("../../../../console/index.html"),
    },
    Asset {
        path: "/console.css",
        media_type: "text/css; charset=utf-8",
        bytes: include_bytes!("../../../../console/console.css"),
    },
    Asset {
        path: "/console.js",
        media_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../../../console/console.js"),
    },
    Asset {
        path: "/favicon.svg",
        media_type: "image/svg+xml",
        bytes: include_bytes!("../../../../console/favicon.svg"),
    },
];

/// What is at a path, if anything is.
pub fn asset(path: &str) -> Option<Response<Bytes>> {
    let asset = ASSETS.iter().find(|asset| asset.path == path)?;
    let mut response = Response::new(Bytes::from_static(asset.bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Some(response)
}
