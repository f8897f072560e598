//! The service of this host: what a CRI client can ask of one pair of roots.
//!
//! The two `impl` blocks are a table of contents: an RPC that does more than look something up has its body in a file of `host/`.

mod images;
mod ready;

use super::messages::*;
use super::service::{ImageService, RuntimeService};
use super::status::Status;
use crate::state::Roots;

/// Answers CRI requests for one pair of roots. It holds nothing but their paths: every answer is what is on disk and in the kernel now.
#[derive(Clone, Debug)]
pub struct HostService {
    roots: Roots,
}

/// The RPCs that this host fulfils; the others say `UNIMPLEMENTED`.
pub const METHODS: &[&str] =
    &["Version", "Status", "RuntimeConfig", "ListImages", "ImageStatus", "RemoveImage", "ImageFsInfo"];

impl HostService {
    /// The service over these roots; touches nothing.
    pub fn new(roots: Roots) -> HostService {
        HostService { roots }
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
        Ok(ready::status(&self.roots, &request))
    }

    fn runtime_config(&self, _request: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Status> {
        let linux = LinuxRuntimeConfiguration { cgroup_driver: CgroupDriver::Cgroupfs.into() };
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

    pub(super) fn service() -> (HostService, std::path::PathBuf) {
        let top = std::env::temp_dir().join(format!("husk-cri-host-{}", uuid::Uuid::new_v4()));
        (HostService::new(Roots::new(&top.join("root"), &top.join("state")).unwrap()), top)
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
        let (service, _) = service();
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
