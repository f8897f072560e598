//! `husk cri METHOD`: one request, one response, one exit code.

use serde_json::{Value, json};

use crate::common::image::Image;
use crate::common::{BUSYBOX, Host, container, manifest};

fn call(host: &Host, method: &str, request: &Value) -> Value {
    let output = host.job(&["cri", method]).stdin(request.to_string()).finish();
    assert_eq!(output.code, Some(0), "{method} {request}: {output}");
    assert_eq!(output.err(), "", "{method}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output}"))
}

#[track_caller]
fn refused(host: &Host, method: &str, request: &str, code: i32, sentence: &str) {
    let output = host.job(&["cri", method]).stdin(request).finish();
    assert_eq!((output.code, output.out().as_str()), (Some(code), ""), "{output}");
    assert!(output.err().starts_with("husk: ") && output.err().contains(sentence), "{output}");
}

#[test]
fn an_empty_input_is_an_empty_request() {
    let host = Host::empty();
    let output = host.ok(&["cri", "Version"]);
    let version: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(version["runtimeName"], "husk");
    assert_eq!(version["runtimeVersion"], env!("CARGO_PKG_VERSION"));
    assert!(output.out().starts_with("{\n  \"") && output.out().ends_with("}\n"), "made to be read: {output}");
    assert_eq!(call(&host, "Version", &json!({"version": "v1"})), version);
    host.assert_untouched();
}

#[test]
fn status_tells_where_things_are_when_asked() {
    let host = Host::empty();
    assert_eq!(call(&host, "Status", &json!({}))["info"], json!({}));
    let status = call(&host, "Status", &json!({"verbose": true}));
    let info: Value = serde_json::from_str(status["info"]["config"].as_str().expect("text")).expect("JSON");
    assert_eq!(info["root"], host.root.to_str().expect("UTF-8"));
    assert_eq!(call(&host, "RuntimeConfig", &json!({}))["linux"]["cgroupDriver"], "CGROUPFS");
}

#[test]
fn mistakes_have_a_code_and_a_sentence() {
    let host = Host::empty();
    refused(&host, "RunPod", "", 2, "unknown method \"RunPod\"");
    refused(&host, "StreamImages", "", 2, "ListImages gives the same");
    refused(&host, "ImageStatus", "{", 1, "INVALID_ARGUMENT: not JSON: EOF");
    refused(&host, "ImageStatus", "[]", 1, "INVALID_ARGUMENT: request: invalid type: sequence, expected an object");
    refused(
        &host,
        "ImageStatus",
        r#"{"image": {"nmae": ""}}"#,
        1,
        "INVALID_ARGUMENT: request.image: unknown field \"nmae\"",
    );
    refused(&host, "ImageStatus", "", 1, "INVALID_ARGUMENT: image.image: must be there");
    refused(&host, "ImageStatus", r#"{"image": {"image": "B A D"}}"#, 1, "INVALID_ARGUMENT: image name \"B A D\"");
    refused(
        &host,
        "ImageStatus",
        r#"{"image": {"image": "x", "runtimeHandler": "kata"}}"#,
        1,
        "no runtime handler \"kata\"",
    );
    refused(&host, "PullImage", r#"{"image": {"image": "busybox"}}"#, 1, "UNIMPLEMENTED: PullImage");
    refused(&host, "Version", &"[".repeat(65), 1, "INVALID_ARGUMENT: more than 64");
    host.assert_untouched();
}

#[test]
fn the_list_of_methods_is_of_those_that_work() {
    let host = Host::empty();
    let output = host.ok(&["cri", "--list"]);
    let methods: Vec<&str> = std::str::from_utf8(&output.stdout).expect("text").lines().collect();
    assert!(methods.contains(&"Version") && methods.contains(&"ImageFsInfo"));
    assert_eq!(methods, husk::cri::host::METHODS);
    for args in [&["cri", "--list", "Version"][..], &["cri", "Version", "Status"]] {
        assert_eq!(host.husk(args).code, Some(2), "{args:?}");
    }
}

#[test]
fn images_are_listed_looked_at_and_removed() {
    let host = Host::empty();
    let usage = |host: &Host| {
        let info = call(host, "ImageFsInfo", &json!({}));
        let filesystem = &info["imageFilesystems"][0];
        let number = |value: &Value| value["value"].as_str().expect("a string").parse::<u64>().expect("a number");
        (number(&filesystem["usedBytes"]), number(&filesystem["inodesUsed"]))
    };
    assert_eq!(usage(&host), (0, 0));
    assert_eq!(call(&host, "ListImages", &json!({})), json!({"images": []}));

    let name = "husk.test/user:1";
    host.load(&Image::on_busybox(name).set("User", json!("1000:1000")).write(&host.dir.join("user.tar")));
    host.load(&Image::on_busybox(BUSYBOX).set("User", json!("user")).write(&host.dir.join("other.tar")));
    let (bytes, inodes) = usage(&host);
    assert!(bytes > 500_000 && inodes > 100, "{bytes} bytes in {inodes} inodes");

    let all = call(&host, "ListImages", &json!({}));
    assert_eq!(all["images"].as_array().map(Vec::len), Some(2), "{all}");
    let one = call(&host, "ListImages", &json!({"filter": {"image": {"image": name}}}));
    let image = &one["images"][0];
    assert_eq!(one["images"].as_array().map(Vec::len), Some(1), "{one}");
    assert_eq!(
        (&image["repoTags"], &image["uid"], &image["username"]),
        (&json!([name]), &json!({"value": "1000"}), &json!(""))
    );
    assert!(
        image["repoDigests"][0].as_str().is_some_and(|digest| digest.starts_with("husk.test/user@sha256:")),
        "{image}"
    );
    assert!(image["size"].as_str().and_then(|size| size.parse::<u64>().ok()).is_some_and(|size| size > 500_000));
    let none = call(&host, "ListImages", &json!({"filter": {"image": {"image": "husk.test/none"}}}));
    assert_eq!(none, json!({"images": []}));

    let id = image["id"].as_str().expect("an id");
    let status = call(&host, "ImageStatus", &json!({"image": {"image": id}, "verbose": true}));
    assert_eq!(&status["image"], image);
    let info: Value = serde_json::from_str(status["info"]["image"].as_str().expect("text")).expect("JSON");
    assert_eq!(info["user"], "1000:1000");
    let named = call(&host, "ImageStatus", &json!({"image": {"image": BUSYBOX}}));
    assert_eq!((&named["image"]["uid"], &named["image"]["username"]), (&Value::Null, &json!("user")));

    for _ in 0..2 {
        assert_eq!(call(&host, "RemoveImage", &json!({"image": {"image": id}})), json!({}));
        assert_eq!(call(&host, "ImageStatus", &json!({"image": {"image": id}})), json!({"info": {}}));
    }
}

#[test]
fn all_names_of_an_image_go_at_once() {
    let host = Host::empty();
    for name in ["husk.test/a:1", "husk.test/b:1"] {
        host.load(&Image::on_busybox(name).write(&host.dir.join("image.tar")));
    }
    assert_eq!(
        call(&host, "ListImages", &json!({}))["images"][0]["repoTags"],
        json!(["husk.test/a:1", "husk.test/b:1"])
    );
    call(&host, "RemoveImage", &json!({"image": {"image": "husk.test/a:1"}}));
    assert_eq!(call(&host, "ListImages", &json!({})), json!({"images": []}));
}

#[test]
fn an_image_that_a_pod_needs_is_pinned_and_stays() {
    let host = Host::new();
    let image = json!({"image": {"image": BUSYBOX}});
    assert_eq!(call(&host, "ImageStatus", &image)["image"]["pinned"], false);
    let spec =
        json!({"terminationGracePeriodSeconds": 2, "containers": [container("app", "exec sleep 1000", json!({}))]});
    let pod = host.run("pins", &manifest("pins", spec));
    pod.wait_phase("Running");
    assert_eq!(call(&host, "ImageStatus", &image)["image"]["pinned"], true);
    refused(&host, "RemoveImage", &image.to_string(), 1, "FAILED_PRECONDITION: image");
    assert_eq!(call(&host, "ImageStatus", &image)["image"]["repoTags"], json!([BUSYBOX]));
}
