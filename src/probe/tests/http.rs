//! What is asked, and what counts as good.

use super::*;

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len())
}

#[test]
fn status_codes_from_200_to_399_are_good() {
    run(async {
        let (port, _) = web(|head| {
            let code = head.split('/').nth(1).and_then(|p| p.split(' ').next()).unwrap_or_default().to_owned();
            answer(&format!("{code} Word"), "", "body")
        })
        .await;
        for (code, good) in [
            (200, true),
            (204, true),
            (299, true),
            (304, true),
            (399, true),
            (400, false),
            (404, false),
            (500, false),
            (503, false),
        ] {
            let outcome = ask_http(request(port, &format!("/{code}"))).await;
            assert_eq!(outcome.passed(), Some(good), "{code}: {outcome:?}");
            if !good {
                assert_failed(&outcome, &format!("HTTP probe failed with statuscode: {code}"));
            }
        }
    });
}

#[test]
fn a_request_is_as_the_kubelet_sends_it() {
    run(async {
        let (port, heard) = web(|_| answer("200 OK", "", "")).await;
        let plain = request(port, "healthz?a=b c#top");
        let own = [
            ("Host", "example.com"),
            ("X-One", "1"),
            ("x-one", "2"),
            ("User-Agent", "mine"),
            ("Accept", ""),
            ("Content-Length", "7"),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        for request in [plain.clone(), HttpGet { headers: own, ..plain }] {
            assert_eq!(ask_http(request).await, Outcome::Success);
        }
        let heard = heard.lock().expect("no panic").clone();
        let lines = |head: &str| {
            let mut lines: Vec<String> = head.trim_end().lines().map(str::to_owned).collect();
            lines[1..].sort();
            lines
        };
        let agent = format!("User-Agent: husk-probe/{}", env!("CARGO_PKG_VERSION"));
        let host = format!("Host: 127.0.0.1:{port}");
        let get = "GET /healthz?a=b%20c HTTP/1.1";
        assert_eq!(lines(&heard[0]), [get, "Accept: */*", "Connection: close", host.as_str(), agent.as_str()]);
        assert_eq!(
            lines(&heard[1]),
            [get, "Connection: close", "Host: example.com", "User-Agent: mine", "X-One: 1", "X-One: 2"]
        );
    });
}

#[test]
fn redirects_on_the_same_host_are_followed_ten_times() {
    run(async {
        let (port, heard) = web(|head| {
            let n: u32 =
                head.split("/r").nth(1).and_then(|p| p.split(' ').next()).and_then(|n| n.parse().ok()).unwrap_or(0);
            if n == 0 {
                answer("200 OK", "", "there")
            } else {
                answer("302 Found", &format!("Location: r{}\r\n", n - 1), "")
            }
        })
        .await;
        let named = |path: &str| HttpGet { headers: vec![("Host".into(), "own.name".into())], ..request(port, path) };
        assert_eq!(ask_http(named("/a/r10")).await, Outcome::Success);
        assert_eq!(heard.lock().expect("no panic").len(), 11);
        assert!(heard.lock().expect("no panic").iter().all(|head| head.contains("Host: own.name")));
        assert_failed(&ask_http(named("/a/r11")).await, "stopped after 10 redirects");
    });
}

#[test]
fn a_redirect_to_another_port_of_the_host_is_followed_under_its_own_name() {
    run(async {
        let (to, heard) = web(|_| answer("200 OK", "", "")).await;
        let (from, _) =
            web(move |_| answer("307 Elsewhere", &format!("Location: http://127.0.0.1:{to}/x\r\n"), "")).await;
        let named = HttpGet { headers: vec![("Host".into(), "own.name".into())], ..request(from, "/") };
        assert_eq!(ask_http(named).await, Outcome::Success);
        assert!(heard.lock().expect("no panic")[0].contains(&format!("Host: 127.0.0.1:{to}")));
    });
}

#[test]
fn a_redirect_to_another_host_is_a_warning_and_not_followed() {
    run(async {
        let (port, _) = web(|_| answer("302 Found", "Location: http://example.com/login\r\n", "moved")).await;
        let outcome = ask_http(request(port, "/")).await;
        let expected = "redirect to another host, not followed: http://example.com:80/login, answer body: moved";
        assert_eq!(outcome, Outcome::Warning(expected.into()));
        assert_eq!(outcome.passed(), Some(true));
        let (port, _) = web(|_| answer("302 Found", "", "nowhere")).await;
        assert!(matches!(ask_http(request(port, "/")).await, Outcome::Warning(_)));
        let (port, _) = web(|_| answer("302 Found", "Location: ftp://127.0.0.1/\r\n", "")).await;
        assert_failed(&ask_http(request(port, "/")).await, "neither http nor https");
    });
}

#[test]
fn bodies_come_in_every_form() {
    run(async {
        for (form, body) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "abc"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "abc"),
            ("HTTP/1.0 200 OK\r\n\r\nabc\n", "abc"),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 None\r\n\r\n", ""),
        ] {
            let (port, _) = web(move |_| form.to_owned()).await;
            let got = crate::probe::http::get(&place(), &request(port, "/"), "x").await.expect("an answer");
            assert_eq!(got.body, body, "{form:?}");
        }
        let long = "x".repeat(3 * OUTPUT_LIMIT);
        let (port, _) = web(move |_| answer("500 Bad", "", &long)).await;
        let got = crate::probe::http::get(&place(), &request(port, "/"), "x").await.expect("an answer");
        assert_eq!((got.status, got.body.len()), (500, OUTPUT_LIMIT));
    });
}
