//! JSON-RPC 2.0 over two streams, one object a line: requests in, responses and notifications out.
//!
//! * One thread reads; each request runs on a thread of its own and answers when it is done, so answers come in any order. What is about the
//!   same pod takes turns ([`super::lanes`]).
//! * Nothing a client writes ends the dialogue: a line that cannot be understood is answered, one that is too long is skipped without being kept.
//! * With [`Limits::requests`] or [`Limits::bytes`] outstanding nothing is read until something has ended: the pipe fills, and the client waits.
//! * At the end of the input what is outstanding is done and answered. When the output is gone it is done all the same, and nothing more is read.

use std::io::{self, BufRead, PipeReader, PipeWriter, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, Scope};

use husk_oci::errno::io_text;
use serde::Serialize;
use serde_json::value::RawValue;

use super::dispatch::{self, Asked, Call, Refusal};
use super::json::{self, Members};
use super::lanes::{Lanes, Ticket};
use super::messages::{ContainerEventResponse, GetEventsRequest};
use super::service::{Events, Service};
use super::status::{Code, Status};

/// How much a client may ask for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a line, without its end.
    pub line: usize,
    /// Requests that are not yet answered.
    pub requests: usize,
    /// Bytes of the lines of requests that are not yet answered; a single line may exceed it.
    pub bytes: usize,
}

impl Limits {
    /// Those of `husk cri`.
    pub const DEFAULT: Limits = Limits { line: 16 << 20, requests: 64, bytes: 32 << 20 };
}

/// JSON-RPC's own failures.
const PARSE_ERROR: i32 = -32700;
const INVALID_REQUEST: i32 = -32600;
const METHOD_NOT_FOUND: i32 = -32601;
const INVALID_PARAMS: i32 = -32602;

/// Most bytes of an id: it is kept until the answer.
const MAX_ID: usize = 1024;

/// Holds the dialogue until the input ends, and returns when everything is answered.
///
/// # Errors
/// The input cannot be read, or the output is closed; what was asked for until then has been done.
pub fn serve(
    service: &dyn Service,
    mut input: impl BufRead,
    mut output: impl Write + Send,
    limits: &Limits,
) -> io::Result<()> {
    let dialogue = Dialogue {
        service,
        output: Output { inner: Mutex::new(Inner { to: &mut output, error: None }), closed: AtomicBool::new(false) },
        lanes: Lanes::default(),
        slots: Slots { limits: *limits, taken: Mutex::default(), freed: Condvar::new() },
        hang_up: Mutex::new(None),
    };
    let read = std::thread::scope(|scope| {
        let read = loop {
            if dialogue.output.closed.load(Ordering::Relaxed) {
                break Ok(());
            }
            match read_line(&mut input, limits.line) {
                Ok(Line::Whole(line)) => dialogue.line(scope, &line),
                Ok(Line::TooLong) => dialogue.too_long(limits.line),
                Ok(Line::End) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        if !dialogue.output.closed.load(Ordering::Relaxed) {
            // Whoever watches shall see what the last requests did.
            dialogue.slots.wait_for_all();
        }
        drop(lock(&dialogue.hang_up).take());
        read
    });
    let error = lock(&dialogue.output.inner).error.take();
    read.and(error.map_or(Ok(()), Err))
}

struct Dialogue<'o> {
    service: &'o dyn Service,
    output: Output<'o>,
    lanes: Lanes,
    slots: Slots,
    /// Dropped to tell the thread that watches for events to end; there while one watches.
    hang_up: Mutex<Option<PipeWriter>>,
}

impl<'o> Dialogue<'o> {
    /// Understands one line, and answers it or starts what it asks for.
    fn line<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>, line: &[u8]) {
        if line.iter().all(u8::is_ascii_whitespace) {
            return;
        }
        let slot = self.slots.take(line.len());
        let request = match parse(line) {
            Ok(request) => request,
            Err(bad) => {
                let id = bad.id.as_deref().unwrap_or(RawValue::NULL);
                return self.output.failed(id, bad.number, &bad.status);
            }
        };
        let id = request.id.map(ToOwned::to_owned);
        match dispatch::understand(self.service, &request.method, "params", request.params) {
            Ok(Asked::Call(call)) => self.call(scope, id, call, slot),
            Ok(Asked::Events(request)) => {
                drop(slot);
                self.watch(scope, id, request);
            }
            Err(Refusal::Method(status)) => self.refuse(id.as_deref(), METHOD_NOT_FOUND, &status),
            Err(Refusal::Params(status)) => self.refuse(id.as_deref(), INVALID_PARAMS, &status),
        }
    }

    fn too_long(&self, limit: usize) {
        let sentence = format!("a line has more than {limit} bytes; it was skipped");
        self.output.failed(RawValue::NULL, INVALID_REQUEST, &Status::new(Code::ResourceExhausted, sentence));
    }

    /// A notification is never answered.
    fn refuse(&self, id: Option<&RawValue>, number: i32, status: &Status) {
        if let Some(id) = id {
            self.output.failed(id, number, status);
        }
    }

    fn call<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        id: Option<Box<RawValue>>,
        mut call: Call,
        slot: Slot<'scope>,
    ) {
        let ticket: Option<Ticket<'scope>> = call.lane.take().map(|(lane, hold)| self.lanes.queue(lane, hold));
        let kept = id.clone();
        let work = move || {
            let ticket = ticket.and_then(Ticket::wait);
            let result = call.run(self.service);
            // The next one may begin before the answer is written: it may be a while until somebody reads it.
            drop(ticket);
            if let Some(id) = id {
                match result {
                    Ok(result) => self.output.done(&id, &result),
                    Err(status) => self.output.failed(&id, status.code.json_rpc(), &status),
                }
            }
            drop(slot);
        };
        if let Err(e) = Builder::new().name("request".to_owned()).spawn_scoped(scope, work) {
            let status = Status::new(Code::ResourceExhausted, format!("start a thread: {}", io_text(&e)));
            self.refuse(kept.as_deref(), status.code.json_rpc(), &status);
        }
    }

    /// Starts to send events, until the end of the dialogue.
    fn watch<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        id: Option<Box<RawValue>>,
        request: GetEventsRequest,
    ) {
        let mut hang_up = lock(&self.hang_up);
        let started = if hang_up.is_some() {
            Err(Status::new(Code::AlreadyExists, "events are being sent already; a dialogue has them once"))
        } else {
            io::pipe().map_err(|e| Status::internal(format!("make a pipe: {}", io_text(&e)))).and_then(
                |(over, writer)| {
                    let sink = Sink { output: &self.output, id: id.clone(), begun: false, over };
                    let spawned = Builder::new()
                        .name("events".to_owned())
                        .spawn_scoped(scope, move || self.events(request, sink));
                    spawned.map_err(|e| {
                        Status::new(Code::ResourceExhausted, format!("start a thread: {}", io_text(&e)))
                    })?;
                    Ok(writer)
                },
            )
        };
        match started {
            Ok(writer) => *hang_up = Some(writer),
            Err(status) => {
                drop(hang_up);
                self.refuse(id.as_deref(), status.code.json_rpc(), &status);
            }
        }
    }

    fn events(&self, request: GetEventsRequest, mut sink: Sink<'_, 'o>) {
        let result = self.service.container_events(request, &mut sink);
        // The client may ask again as soon as it is told.
        drop(lock(&self.hang_up).take());
        match (result, sink.begun) {
            (Ok(()), true) => {}
            // Nothing happened before the end: still an answer.
            (Ok(()), false) => drop(sink.begin()),
            (Err(status), false) => self.refuse(sink.id.as_deref(), status.code.json_rpc(), &status),
            (Err(status), true) => {
                self.output
                    .notify("ContainerEventsEnded", &Ended { code: status.code.name(), message: &status.message });
            }
        }
    }
}

/// Events on their way out.
struct Sink<'d, 'o> {
    output: &'d Output<'o>,
    id: Option<Box<RawValue>>,
    begun: bool,
    over: PipeReader,
}

impl Sink<'_, '_> {
    fn flow(&self) -> ControlFlow<()> {
        if self.output.closed.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Events for Sink<'_, '_> {
    fn begin(&mut self) -> ControlFlow<()> {
        if !std::mem::replace(&mut self.begun, true)
            && let Some(id) = &self.id
        {
            self.output.write(&Response { jsonrpc: VERSION, id, result: Some(Empty {}), error: None });
        }
        self.flow()
    }

    fn send(&mut self, event: ContainerEventResponse) -> ControlFlow<()> {
        let _ = self.begin();
        self.output.notify("ContainerEvent", &event);
        self.flow()
    }

    fn over(&self) -> BorrowedFd<'_> {
        self.over.as_fd()
    }
}

/// Whole lines, one at a time.
struct Output<'o> {
    inner: Mutex<Inner<'o>>,
    closed: AtomicBool,
}

struct Inner<'o> {
    to: &'o mut (dyn Write + Send),
    /// The first failure; nothing is written after it.
    error: Option<io::Error>,
}

const VERSION: &str = "2.0";

#[derive(Serialize)]
struct Response<'r, T> {
    jsonrpc: &'static str,
    id: &'r RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure<'r>>,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Failure<'r> {
    code: i32,
    message: &'r str,
    data: Data,
}

#[derive(Serialize)]
struct Data {
    code: &'static str,
}

#[derive(Serialize)]
struct Notification<'r, T> {
    jsonrpc: &'static str,
    method: &'static str,
    params: &'r T,
}

#[derive(Serialize)]
struct Ended<'r> {
    code: &'static str,
    message: &'r str,
}

impl Output<'_> {
    fn done(&self, id: &RawValue, result: &RawValue) {
        self.write(&Response { jsonrpc: VERSION, id, result: Some(result), error: None });
    }

    fn failed(&self, id: &RawValue, number: i32, status: &Status) {
        let data = Data { code: status.code.name() };
        let error = Some(Failure { code: number, message: &status.message, data });
        self.write(&Response { jsonrpc: VERSION, id, result: None::<Empty>, error });
    }

    fn notify<T: Serialize>(&self, method: &'static str, params: &T) {
        self.write(&Notification { jsonrpc: VERSION, method, params });
    }

    fn write<T: Serialize>(&self, message: &T) {
        let line = serde_json::to_vec(message).map(|mut line| {
            line.push(b'\n');
            line
        });
        let mut inner = lock(&self.inner);
        if inner.error.is_some() {
            return;
        }
        let written =
            line.map_err(io::Error::from).and_then(|line| inner.to.write_all(&line).and_then(|()| inner.to.flush()));
        if let Err(e) = written {
            inner.error = Some(e);
            self.closed.store(true, Ordering::Relaxed);
        }
    }
}

/// How much is outstanding.
struct Slots {
    limits: Limits,
    taken: Mutex<Taken>,
    freed: Condvar,
}

#[derive(Default)]
struct Taken {
    requests: usize,
    bytes: usize,
}

struct Slot<'s> {
    slots: &'s Slots,
    bytes: usize,
}

impl Slots {
    /// Blocks while too much is outstanding.
    fn take(&self, bytes: usize) -> Slot<'_> {
        let mut taken = lock(&self.taken);
        while taken.requests >= self.limits.requests || (taken.requests > 0 && taken.bytes + bytes > self.limits.bytes)
        {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        taken.requests += 1;
        taken.bytes += bytes;
        Slot { slots: self, bytes }
    }

    fn wait_for_all(&self) {
        let mut taken = lock(&self.taken);
        while taken.requests > 0 {
            taken = self.freed.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut taken = lock(&self.slots.taken);
        taken.requests -= 1;
        taken.bytes -= self.bytes;
        drop(taken);
        self.slots.freed.notify_all();
    }
}

/// What a thread that died held is still whole: each change is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Line {
    Whole(Vec<u8>),
    /// Longer than the limit, and gone.
    TooLong,
    End,
}

/// Reads to the end of a line, and keeps no more than `limit` bytes of it. What stands before the end of the input is a line, too.
fn read_line(input: &mut impl BufRead, limit: usize) -> io::Result<Line> {
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let chunk = match input.fill_buf() {
            Ok(chunk) => chunk,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let (text, ended) = (&chunk[..end.unwrap_or(chunk.len())], end.is_some() || chunk.is_empty());
        too_long |= line.len() + text.len() > limit;
        if too_long {
            line = Vec::new();
        } else {
            line.extend_from_slice(text);
        }
        let nothing = chunk.is_empty() && line.is_empty() && !too_long;
        let used = text.len() + usize::from(end.is_some());
        input.consume(used);
        if ended {
            return Ok(match (nothing, too_long) {
                (true, _) => Line::End,
                (_, true) => Line::TooLong,
                _ => Line::Whole(line),
            });
        }
    }
}

/// A line that is JSON-RPC.
struct Request<'l> {
    /// As written; none in a notification.
    id: Option<&'l RawValue>,
    method: String,
    params: &'l RawValue,
}

/// A line that is not.
struct Bad {
    /// As far as it could be found out.
    id: Option<Box<RawValue>>,
    number: i32,
    status: Status,
}

fn parse(line: &[u8]) -> Result<Request<'_>, Bad> {
    let refused = |number, id: Option<&RawValue>, sentence: String| Bad {
        id: id.map(ToOwned::to_owned),
        number,
        status: Status::invalid_argument(sentence),
    };
    let not_json = |sentence| refused(PARSE_ERROR, None, sentence);
    if json::too_deep(line) {
        return Err(not_json(format!("more than {} lists and objects in one another", json::MAX_DEPTH)));
    }
    let text = std::str::from_utf8(line)
        .map_err(|e| not_json(format!("not JSON: byte {} is not UTF-8", e.valid_up_to() + 1)))?;
    let whole: &RawValue = serde_json::from_str(text)
        .map_err(|e| not_json(format!("not JSON: {} (column {})", json::complaint(&e), e.column())))?;
    let invalid = |id, sentence| refused(INVALID_REQUEST, id, sentence);
    match whole.get().as_bytes().first() {
        Some(b'{') => {}
        Some(b'[') => return Err(invalid(None, "a batch; write one request a line instead".to_owned())),
        _ => return Err(invalid(None, "not a request: a line is a JSON object".to_owned())),
    }
    let Members(members) = serde_json::from_str(text)
        .map_err(|e| not_json(format!("not JSON: {} (column {})", json::complaint(&e), e.column())))?;

    let of = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, value)| *value);
    let id = match of("id") {
        None => None,
        Some(id) if id.get().len() > MAX_ID => {
            return Err(invalid(None, format!("id: more than {MAX_ID} bytes")));
        }
        Some(id) => match id.get().as_bytes().first() {
            Some(b'"' | b'-' | b'0'..=b'9' | b'n') => Some(id),
            _ => return Err(invalid(None, "id: must be a string, a number or null".to_owned())),
        },
    };
    for (at, (key, _)) in members.iter().enumerate() {
        if !matches!(key.as_str(), "jsonrpc" | "id" | "method" | "params") {
            let key: String = key.chars().take(64).collect();
            return Err(invalid(id, format!("unknown member {key:?}; a request has jsonrpc, id, method and params")));
        }
        if members[..at].iter().any(|(earlier, _)| earlier == key) {
            return Err(invalid(id, format!("member {key:?} comes twice")));
        }
    }
    if of("jsonrpc").is_none_or(|version| version.get() != "\"2.0\"") {
        return Err(invalid(id, "jsonrpc: must be \"2.0\"".to_owned()));
    }
    let method = of("method").and_then(|method| serde_json::from_str::<String>(method.get()).ok());
    let method = method.ok_or_else(|| invalid(id, "method: must be there, and a string".to_owned()))?;
    let params = match of("params") {
        None => RawValue::NULL,
        Some(params) => match params.get().as_bytes().first() {
            Some(b'{' | b'n') => params,
            _ => {
                let sentence = "params: must be an object, the request's message".to_owned();
                return Err(refused(INVALID_PARAMS, id, sentence));
            }
        },
    };
    Ok(Request { id, method, params })
}

#[cfg(test)]
mod tests;
