//! The service of this host: what a CRI client can ask of one pair of roots.
//!
//! The two `impl` blocks are a table of contents: an RPC that does more than look something up has its body in a file of `host/`.

mod config;
mod containers;
mod devices;
mod events;
mod exec;
mod images;
mod pods;
mod ready;
mod resources;
mod stats;

use super::messages::*;
use super::service::{Events, ImageService, RuntimeService, Subject};
use super::status::Status;
use crate::cgroup::DriverKind;
use crate::runtime::{Settings, driven};
use crate::state::Roots;

/// Answers CRI requests for one pair of roots. It holds nothing but their paths: every answer is what is on disk and in the kernel now.
#[derive(Clone, Debug)]
pub struct HostService {
    roots: Roots,
    /// For new pods.
    settings: Settings,
}

/// The RPCs that this host fulfils; the others say `UNIMPLEMENTED`.
pub const METHODS: &[&str] = &[
    "Version",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "ListPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "ContainerStatus",
    "UpdateContainerResources",
    "ExecSync",
    "ContainerStats",
    "ListContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
    "Status",
    "RuntimeConfig",
    "GetContainerEvents",
    "ListImages",
    "ImageStatus",
    "RemoveImage",
    "ImageFsInfo",
];

impl HostService {
    /// The service over these roots; touches nothing. `settings` are those of sandboxes of which the client says nothing else.
    pub fn new(roots: Roots, settings: Settings) -> HostService {
        HostService { roots, settings }
    }
}

impl RuntimeService for HostService {
    fn version(&self, _request: VersionRequest) -> Result<VersionResponse, Status> {
        Ok(VersionResponse {
            // Of the message format, and since ever this.
            version: "0.1.0".to_owned(),
            runtime_name: "husk".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        })
    }

    fn status(&self, request: StatusRequest) -> Result<StatusResponse, Status> {
        Ok(ready::status(&self.roots, &self.settings, &request))
    }

    fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Status> {
        pods::run(&self.roots, &self.settings, request)
    }

    fn stop_pod_sandbox(&self, request: StopPodSandboxRequest) -> Result<StopPodSandboxResponse, Status> {
        driven::stop_sandbox(&self.roots, &request.pod_sandbox_id)?;
        Ok(StopPodSandboxResponse {})
    }

    fn remove_pod_sandbox(&self, request: RemovePodSandboxRequest) -> Result<RemovePodSandboxResponse, Status> {
        driven::remove_sandbox(&self.roots, &request.pod_sandbox_id)?;
        Ok(RemovePodSandboxResponse {})
    }

    fn pod_sandbox_status(&self, request: PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse, Status> {
        pods::status(&self.roots, request)
    }

    fn list_pod_sandbox(&self, request: ListPodSandboxRequest) -> Result<ListPodSandboxResponse, Status> {
        pods::list(&self.roots, request)
    }

    fn create_container(&self, request: CreateContainerRequest) -> Result<CreateContainerResponse, Status> {
        containers::create(&self.roots, request)
    }

    fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse, Status> {
        driven::start(&self.roots, &request.container_id)?;
        Ok(StartContainerResponse {})
    }

    fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse, Status> {
        // CRI: less than nothing is nothing.
        let seconds = u64::try_from(request.timeout).unwrap_or(0);
        driven::stop(&self.roots, &request.container_id, seconds.saturating_mul(1000))?;
        Ok(StopContainerResponse {})
    }

    fn remove_container(&self, request: RemoveContainerRequest) -> Result<RemoveContainerResponse, Status> {
        driven::remove_container(&self.roots, &request.container_id)?;
        Ok(RemoveContainerResponse {})
    }

    fn container_status(&self, request: ContainerStatusRequest) -> Result<ContainerStatusResponse, Status> {
        containers::status_of(&self.roots, request)
    }

    fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse, Status> {
        containers::list(&self.roots, request)
    }

    fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Status> {
        exec::sync(&self.roots, request)
    }

    fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse, Status> {
        containers::update(&self.roots, request)
    }

    fn container_stats(&self, request: ContainerStatsRequest) -> Result<ContainerStatsResponse, Status> {
        stats::container(&self.roots, &request)
    }

    fn list_container_stats(&self, request: ListContainerStatsRequest) -> Result<ListContainerStatsResponse, Status> {
        stats::containers(&self.roots, request)
    }

    fn pod_sandbox_stats(&self, request: PodSandboxStatsRequest) -> Result<PodSandboxStatsResponse, Status> {
        stats::pod(&self.roots, &request)
    }

    fn list_pod_sandbox_stats(
        &self,
        request: ListPodSandboxStatsRequest,
    ) -> Result<ListPodSandboxStatsResponse, Status> {
        stats::pods(&self.roots, request)
    }

    fn container_events(&self, _request: GetEventsRequest, events: &mut dyn Events) -> Result<(), Status> {
        events::watch(&self.roots, events)
    }

    /// A container's id tells its sandbox's.
    fn lane(&self, subject: Subject<'_>) -> Option<String> {
        match subject {
            Subject::New(metadata) => {
                metadata.map(|m| driven::lane(&driven::sandbox_id(&m.namespace, &m.name, &m.uid, m.attempt)))
            }
            Subject::Sandbox(id) => Some(driven::lane(id)),
            Subject::Container(id) => Some(driven::lane_of_container(id)),
        }
    }

    fn runtime_config(&self, _request: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Status> {
        let driver = match self.settings.cgroup_driver {
            DriverKind::Cgroupfs => CgroupDriver::Cgroupfs,
            DriverKind::Systemd => CgroupDriver::Systemd,
        };
        let linux = LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
        Ok(RuntimeConfigResponse { linux: Some(linux) })
    }
}

impl ImageService for HostService {
    fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Status> {
        images::list(&self.roots, request)
    }

    fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Status> {
        images::status(&self.roots, request)
    }

    fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Status> {
        let image = request.image.unwrap_or_default().image;
        Err(Status::unimplemented(format!(
            "PullImage is not implemented by this husk: bring image {image:?} in with `husk image load`"
        )))
    }

    fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Status> {
        images::remove(&self.roots, request)
    }

    fn image_fs_info(&self, _request: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Status> {
        images::fs_info(&self.roots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::dispatch::{self, Asked};
    use crate::cri::service::Events;
    use crate::cri::status::Code;
    use serde_json::value::RawValue;
    use std::ops::ControlFlow;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

    /// Two roots that go away with it.
    struct Scratch(std::path::PathBuf);
    impl Scratch {
        fn new() -> Scratch {
            Scratch(
                std::env::temp_dir()
                    .join(format!("husk-cri-host-{}", u64::from_ne_bytes(husk_oci::sys::random::bytes().unwrap()))),
            )
        }
        fn service(&self) -> HostService {
            let roots = Roots::new(&self.0.join("root"), &self.0.join("state")).unwrap();
            HostService::new(roots, Settings::default())
        }
    }
    impl Drop for Scratch {
        fn drop(&mut self) {
            match std::fs::remove_dir_all(&self.0) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => eprintln!("remove {}: {e}", self.0.display()),
                _ => {}
            }
        }
    }

    struct Nobody(OwnedFd);
    impl Events for Nobody {
        fn begin(&mut self) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
        fn send(&mut self, _event: ContainerEventResponse) -> ControlFlow<()> {
            ControlFlow::Break(())
        }
        fn over(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    #[test]
    fn what_is_said_to_be_there_is_there() {
        let scratch = Scratch::new();
        let service = scratch.service();
        for method in dispatch::METHODS {
            let empty = RawValue::from_string("{}".to_owned()).unwrap();
            let result = match dispatch::understand(&service, method, "params", &empty).unwrap() {
                Asked::Call(call) => call.run(&service).map(drop),
                Asked::Events(request) => {
                    let (over, hang_up) = std::io::pipe().unwrap();
                    drop(hang_up);
                    service.container_events(request, &mut Nobody(over.into()))
                }
            };
            let there = !matches!(&result, Err(status) if status.code == Code::Unimplemented);
            assert_eq!(there, METHODS.contains(method), "{method}: {result:?}");
        }
    }
}
