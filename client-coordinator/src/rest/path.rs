//! Parses namespace and key from an address in its raw form.

use axum::http::Uri;
use bytes::Bytes;
use percent_encoding::percent_decode;
use tierkv_types::Error;

/// Root of keys, after their namespace.
pub(super) const KV: &str = "/v1/kv/";
/// Root of increments.
pub(super) const INCREMENT: &str = "/v1/increment/";
/// Root of touches.
pub(super) const TOUCH: &str = "/v1/touch/";
/// Root of counts.
pub(super) const COUNT: &str = "/v1/count/";
/// Root of watches.
pub(super) const WATCH: &str = "/v1/watch/";

/// Namespace and key of `{root}{namespace}/{key}`.
///
/// # Errors
/// `InvalidArgument` if the path has another shape.
pub(super) fn item(uri: &Uri, root: &str) -> Result<(String, Bytes), Error> {
    let rest = (uri.path().strip_prefix(root)).ok_or_else(|| shape_of_key(root))?;
    let (namespace, key) = rest.split_once('/').ok_or_else(|| shape_of_key(root))?;
    Ok((
        namespace_of(namespace, || shape_of_key(root))?,
        decoded(key)?.into(),
    ))
}

/// The namespace of `{root}{namespace}`.
///
/// # Errors
/// `InvalidArgument` if the path has another shape.
pub(super) fn namespace(uri: &Uri, root: &str) -> Result<String, Error> {
    let namespace = (uri.path().strip_prefix(root)).ok_or_else(|| shape_of_namespace(root))?;
    namespace_of(namespace, || shape_of_namespace(root))
}

/// The error for a path that has one of our roots but no route; `None` for other paths.
pub(super) fn misshapen(uri: &Uri) -> Option<Error> {
    let begins = |root: &&str| uri.path().starts_with(root);
    let of_key = [KV, INCREMENT, TOUCH].into_iter().find(|root| begins(root));
    let of_namespace = [COUNT, WATCH].into_iter().find(|root| begins(root));
    (of_key.map(shape_of_key)).or_else(|| of_namespace.map(shape_of_namespace))
}

fn shape_of_key(root: &str) -> Error {
    let listing = match root {
        KV => {
            "; keys are listed at /v1/kv/{namespace}?prefix=, without a slash after the namespace"
        }
        _ => "",
    };
    Error::invalid(format!(
        "the path is {root}{{namespace}}/{{key}}, neither empty, the key percent-encoded{listing}"
    ))
}

/// The methods that an address takes, for error messages.
pub(super) fn methods(uri: &Uri) -> &'static str {
    let path = uri.path();
    let posts = [INCREMENT, TOUCH, "/v1/batch-get", "/v1/write"];
    match path.strip_prefix(KV) {
        Some(rest) if rest.contains('/') => "GET, HEAD, PUT and DELETE",
        Some(_) => "GET and HEAD",
        None if posts.iter().any(|post| path.starts_with(post)) => "POST",
        None => "GET and HEAD",
    }
}

fn shape_of_namespace(root: &str) -> Error {
    Error::invalid(format!("the path is {root}{{namespace}}"))
}

fn namespace_of(encoded: &str, shape: impl Fn() -> Error) -> Result<String, Error> {
    let namespace = percent_decode(encoded.as_bytes())
        .decode_utf8()
        .map_err(|_| shape())?;
    match namespace.is_empty() {
        true => Err(shape()),
        false => Ok(namespace.into_owned()),
    }
}

/// Percent-decodes; refuses a `%` without two hex digits, which should have been `%25`.
///
/// # Errors
/// `InvalidArgument`.
pub(super) fn decoded(text: &str) -> Result<Vec<u8>, Error> {
    let bytes = text.as_bytes();
    let hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let broken = (0..bytes.len()).any(|at| bytes[at] == b'%' && !(hex(at + 1) && hex(at + 2)));
    if broken {
        return Err(Error::invalid(
            "a % in the address is not followed by two hex digits; write %25 for a percent sign",
        ));
    }
    Ok(percent_decode(bytes).collect())
}

#[cfg(test)]
mod tests {
    use tierkv_types::Code;

    use super::*;

    fn parsed(path: &str) -> Result<(String, Vec<u8>), Code> {
        let uri: Uri = path.parse().unwrap();
        item(&uri, KV)
            .map(|(namespace, key)| (namespace, key.to_vec()))
            .map_err(|error| error.code)
    }

    #[test]
    fn keys_are_taken_raw() {
        let key = |path| parsed(path).unwrap().1;
        assert_eq!(key("/v1/kv/n/a"), b"a");
        assert_eq!(key("/v1/kv/n/a+b%2Bc"), b"a+b+c");
        assert_eq!(key("/v1/kv/n/a%2Fb"), b"a/b");
        assert_eq!(key("/v1/kv/n/a/b"), b"a/b");
        assert_eq!(key("/v1/kv/n/%00%FF"), b"\x00\xff");
        assert_eq!(key("/v1/kv/n//"), b"/");
        assert_eq!(key("/v1/kv/n/%2E%2E"), b"..");
        assert_eq!(parsed("/v1/kv/n"), Err(Code::InvalidArgument));
        assert_eq!(parsed("/v1/kv//k"), Err(Code::InvalidArgument));
        assert_eq!(parsed("/v1/kv/n/100%"), Err(Code::InvalidArgument));
    }

    #[test]
    fn namespaces_stand_alone_where_many_keys_are_meant() {
        let parsed = |path: &str| namespace(&path.parse().unwrap(), COUNT);
        assert_eq!(parsed("/v1/count/packages").unwrap(), "packages");
        assert_eq!(parsed("/v1/count/%70").unwrap(), "p");
        assert!(parsed("/v1/count/").is_err());
        assert!(parsed("/v1/count/%FF").is_err());
    }
}
