//! One topic a file.

mod attach;
mod bad_input;
mod cgroups;
mod cp;
mod crash;
mod events;
mod harness;
mod images;
mod lifecycle;
mod logs;
mod names;
mod oom;
mod port_forward;
mod process;
mod quickstart;
mod sandbox;
mod state;
mod stdin;
mod termination;
mod timeline;
mod top;
mod update;
mod upgrade;
mod volumes;
mod watch;
