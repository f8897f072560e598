//! From an RPC's name and a JSON text to a call of the service, and back to JSON.

use serde_json::value::RawValue;

use super::json;
use super::messages::*;
use super::service::{Service, Subject, Turn, rpcs};
use super::status::{Code, Status};

/// A request that was understood.
pub struct Call {
    /// The lane it takes its turn in, if it is about a pod.
    pub lane: Option<(String, Hold)>,
    work: Work,
}

type Work = Box<dyn FnOnce(&dyn Service) -> Result<Box<RawValue>, Status> + Send>;

/// How a request stands in its lane; see [`Turn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// [`Turn::After`].
    After,
    /// [`Turn::Beside`].
    Beside,
    /// [`Turn::Alone`].
    Alone,
}

/// What a request asks for.
pub enum Asked {
    /// One answer.
    Call(Call),
    /// Container events.
    Events(GetEventsRequest),
}

/// Why a request was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such method, or not in this wire form.
    Method(Status),
    /// The request is not that method's.
    Params(Status),
}

impl Refusal {
    /// As any other failure.
    pub fn into_status(self) -> Status {
        match self {
            Refusal::Method(status) | Refusal::Params(status) => status,
        }
    }
}

impl Call {
    /// Does it, and answers with the JSON form of the response. Blocks.
    ///
    /// # Errors
    /// The service's.
    pub fn run(self, service: &dyn Service) -> Result<Box<RawValue>, Status> {
        (self.work)(service)
    }
}

fn lane(service: &dyn Service, turn: Turn<'_>) -> Option<(String, Hold)> {
    let (subject, hold) = match turn {
        Turn::Any => return None,
        Turn::After(subject) => (subject, Hold::After),
        Turn::Beside(subject) => (subject, Hold::Beside),
        Turn::Alone(subject) => (subject, Hold::Alone),
    };
    service.lane(subject).map(|lane| (lane, hold))
}

fn invalid(sentence: String) -> Refusal {
    Refusal::Params(Status::invalid_argument(sentence))
}

macro_rules! table {
    (
        runtime { $($(#[$_r:meta])* $r_rpc:ident $r_name:ident($r_req:ident) -> $r_resp:ident, $r_turn:expr;)* }
        image { $($(#[$_i:meta])* $i_rpc:ident $i_name:ident($i_req:ident) -> $i_resp:ident, $i_turn:expr;)* }
        streams { $($stream:ident $whole:ident;)* }
    ) => {
        /// Every RPC that can be asked for in JSON: first RuntimeService's, then ImageService's.
        pub const METHODS: &[&str] =
            &[$(stringify!($r_rpc),)* "GetContainerEvents", $(stringify!($i_rpc),)*];

        /// Understands a request; `root` is how complaints call the text: `params`.
        ///
        /// # Errors
        /// There is no such method, or the text is not its request.
        pub fn understand(service: &dyn Service, method: &str, root: &str, text: &RawValue) -> Result<Asked, Refusal> {
            match method {
                $(stringify!($r_rpc) => row!(service, root, text, $r_name, $r_req, $r_turn),)*
                $(stringify!($i_rpc) => row!(service, root, text, $i_name, $i_req, $i_turn),)*
                "GetContainerEvents" => json::decode(root, text).map(Asked::Events).map_err(invalid),
                $(stringify!($stream) => Err(Refusal::Method(Status::unimplemented(concat!(
                    "method ", stringify!($stream), ": streams of lists are for gRPC; ", stringify!($whole), " gives the same"
                )))),)*
                other => {
                    let other: String = other.chars().take(64).collect();
                    let sentence = format!("unknown method {other:?}; `husk cri --list` prints those there are");
                    Err(Refusal::Method(Status::new(Code::Unimplemented, sentence)))
                }
            }
        }
    };
}

macro_rules! row {
    ($service:ident, $root:ident, $text:ident, $name:ident, $request:ident, $turn:expr) => {{
        let request: $request = json::decode($root, $text).map_err(invalid)?;
        let turn: for<'r> fn(&'r $request) -> Turn<'r> = $turn;
        let lane = lane($service, turn(&request));
        let work: Work =
            Box::new(move |service| service.$name(request).and_then(|r| json::encode(&r).map_err(Status::internal)));
        Ok(Asked::Call(Call { lane, work }))
    }};
}
rpcs!(table);

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition's text, whose `rpc` lines the table must repeat.
    const DEFINITION: &str = include_str!("../../proto/cri.proto");

    struct Nothing;
    impl super::super::service::RuntimeService for Nothing {}
    impl super::super::service::ImageService for Nothing {}

    fn ask(method: &str, text: &str) -> Result<Asked, Refusal> {
        understand(&Nothing, method, "params", &RawValue::from_string(text.to_owned()).unwrap())
    }

    #[test]
    fn every_rpc_of_the_definition_is_known_and_no_other() {
        let rpcs: Vec<(&str, bool)> = DEFINITION
            .lines()
            .filter_map(|line| line.trim().strip_prefix("rpc "))
            .map(|line| (line.split('(').next().unwrap(), line.contains("stream ")))
            .collect();
        assert_eq!(rpcs.len(), 43);
        for (rpc, stream) in &rpcs {
            match ask(rpc, "{}") {
                Ok(Asked::Call(call)) => {
                    assert!(!stream, "{rpc}");
                    let refused = call.run(&Nothing).unwrap_err();
                    assert_eq!(refused.code, Code::Unimplemented);
                    assert!(refused.message.starts_with(&format!("{rpc} is not")), "{refused}");
                }
                Ok(Asked::Events(_)) => assert_eq!(*rpc, "GetContainerEvents"),
                Err(refusal) => {
                    assert!(*stream && !METHODS.contains(rpc), "{rpc}");
                    assert!(refusal.into_status().message.contains(rpc));
                }
            }
        }
        assert!(METHODS.iter().all(|method| rpcs.iter().any(|(rpc, _)| rpc == method)));
    }

    #[test]
    fn unknown_methods_and_fields_are_refused_by_name() {
        let Err(Refusal::Method(status)) = ask("RunPod", "{}") else { panic!("accepted") };
        assert!(status.message.contains("\"RunPod\""), "{status}");
        let Err(Refusal::Params(status)) = ask("StartContainer", r#"{"containerID": "x"}"#) else {
            panic!("accepted");
        };
        assert_eq!(status.message, "params: unknown field \"containerID\"; there are containerId");
    }

    #[test]
    fn requests_on_one_pod_know_their_turn() {
        let lane = |method, text| match ask(method, text) {
            Ok(Asked::Call(call)) => call.lane,
            _ => panic!("{method} refused"),
        };
        let run = lane("RunPodSandbox", r#"{"config": {"metadata": {"uid": "u"}}}"#);
        assert_eq!(run, Some(("u".to_owned(), Hold::Alone)));
        assert_eq!(lane("RunPodSandbox", "{}"), None);
        assert_eq!(lane("StopContainer", r#"{"containerId": "c"}"#), Some(("c".to_owned(), Hold::Beside)));
        assert_eq!(lane("ContainerStatus", r#"{"container_id": "c"}"#), Some(("c".to_owned(), Hold::Beside)));
        assert_eq!(lane("ExecSync", r#"{"container_id": "c"}"#), Some(("c".to_owned(), Hold::After)));
        assert_eq!(lane("ListContainers", "{}"), None);
    }
}
