//! Responses to writes of objects that are read-only in the directory. They say where to write instead.

use axum::extract::Request;
use axum::http::Method;
use percent_encoding::percent_decode_str;
use roster_api::directory::{API_VERSION, GROUP};
use roster_api::syntax::is_subdomain;

use super::status::ApiError;
use super::target::SELF;

/// 405 for a method that the path does not support.
pub(super) async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::method_not_allowed(instead(request.method(), request.uri().path()))
}

/// 405 for a patch of another user. The message contains `name`, so the caller must be allowed to know it.
pub(super) fn patch_of_another(name: &str) -> ApiError {
    let what = format!("only users/{SELF} can be patched here");
    ApiError::method_not_allowed(format!("{what}; {}", write(&Method::PATCH, "users", name)))
}

fn instead(method: &Method, path: &str) -> String {
    let below = path.strip_prefix(&format!("/apis/{API_VERSION}/")).unwrap_or_default();
    let mut segments = below.split('/');
    let (resource, key) = (segments.next().unwrap_or_default(), segments.next().unwrap_or_default());
    let what = match (resource, segments.next()) {
        ("users" | "groups", None) => format!("{resource}.{GROUP} can't be written: they are views of the objects"),
        ("groups", Some("members")) => {
            return format!(
                "{method} is not supported on groups/members; change spec.members of groups.roster.dev instead"
            );
        }
        ("roleassignments", _) => {
            return format!(
                "roleassignments.{GROUP} can't be written: they are computed; write rolebindings.roster.dev instead"
            );
        }
        _ => return format!("{method} is not supported on this resource"),
    };
    let key = percent_decode_str(key).decode_utf8_lossy();
    format!("{what}; {}", write(method, resource, &key))
}

/// Returns how to write the object itself. Does not look up whether it exists, because the caller may not be allowed to
/// know.
fn write(method: &Method, resource: &str, key: &str) -> String {
    let verb = match *method {
        Method::DELETE => "delete",
        Method::POST => "create",
        Method::PUT => "replace",
        _ => "edit",
    };
    let name = if is_subdomain(key) { key } else { "NAME" };
    match (verb, key) {
        ("create" | "replace", _) => {
            format!("use kubectl apply with apiVersion: roster.dev/v1alpha1 ({resource}.roster.dev)")
        }
        ("delete", "") => format!("use kubectl delete {resource}.roster.dev"),
        _ => format!("use kubectl {verb} {resource}.roster.dev {name}, or kubectl apply with roster.dev/v1alpha1"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(Method::DELETE, "users/jane", "kubectl delete users.roster.dev jane")]
    #[case(Method::DELETE, "users/jane%40example.com", "kubectl delete users.roster.dev NAME")]
    #[case(Method::DELETE, "users", "kubectl delete users.roster.dev")]
    #[case(Method::DELETE, "groups/team", "kubectl delete groups.roster.dev team")]
    #[case(Method::POST, "users", "apply with apiVersion: roster.dev/v1alpha1 (users.roster.dev)")]
    #[case(Method::PUT, "groups/team", "apply with apiVersion: roster.dev/v1alpha1 (groups.roster.dev)")]
    #[case(Method::PATCH, "groups/team", "kubectl edit groups.roster.dev team")]
    #[case(Method::DELETE, "groups/team/members/jane", "spec.members of groups.roster.dev")]
    #[case(Method::POST, "roleassignments", "rolebindings.roster.dev")]
    #[case(Method::PUT, "users/jane/quota", "PUT is not supported")]
    fn case_c10_every_write_is_answered_with_where_to_write(
        #[case] method: Method,
        #[case] path: &str,
        #[case] expected: &str,
    ) {
        let message = instead(&method, &format!("/apis/directory.roster.dev/v1alpha1/{path}"));
        assert!(message.contains(expected), "{message}");
    }
}
