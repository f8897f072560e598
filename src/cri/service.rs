//! What CRI can be asked, as two traits: whatever the wire form, requests end in one object that implements both.
//!
//! Everything about an RPC stands in one row of the table below: name, method, messages, and its turn. The traits here, the decoding in
//! `dispatch.rs` and the list of methods are made of it; a gRPC server can be, too.

use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use super::messages::*;
use super::status::Status;

/// Which pod a request is about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Subject<'r> {
    /// A pod sandbox that is to be made.
    New(Option<&'r PodSandboxMetadata>),
    /// A pod sandbox, by the id in the request.
    Sandbox(&'r str),
    /// A container, by the id in the request.
    Container(&'r str),
}

/// When a request may begin, seen from the requests on the same pod that were read before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turn<'r> {
    /// At once: it is about no pod, or about all of them.
    Any,
    /// After every change that was read before has ended. Once it has begun it holds nobody up: it may last as long as it likes.
    After(Subject<'r>),
    /// As `After`, and changes that are read later wait for its end; others of its kind do not: two containers stop side by side,
    /// and a look at them need not wait.
    Beside(Subject<'r>),
    /// Alone: after everything that was read before, and everything that is read later waits for its end.
    Alone(Subject<'r>),
}

/// Where container events go to.
pub trait Events {
    /// Says that from now on no event is missed. To be called once, before the first [`Events::send`].
    fn begin(&mut self) -> ControlFlow<()>;

    /// Hands over one event; `Break` when nobody listens any more.
    fn send(&mut self, event: ContainerEventResponse) -> ControlFlow<()>;

    /// Hangs up (`POLLHUP`) when nobody listens any more: to be polled together with whatever the events come from.
    fn over(&self) -> BorrowedFd<'_>;
}

/// Hands every RPC to the macro `$with`, a row each: documentation, name, method, request, response, and the [`Turn`] of a request;
/// after them the RPCs that stream, which have another one beside them that gives the same in one piece.
macro_rules! rpcs {
    ($with:ident) => {
        $with! {
            runtime {
                /// Name and version of the runtime.
                Version version(VersionRequest) -> VersionResponse, |_| Turn::Any;
                /// Makes a pod sandbox and starts it; the same metadata again is the same sandbox.
                RunPodSandbox run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse,
                    |r| Turn::Alone(Subject::New(r.config.as_ref().and_then(|c| c.metadata.as_ref())));
                /// Ends everything that runs in a pod sandbox. Again, or on one that is gone, it is a success.
                StopPodSandbox stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse,
                    |r| Turn::Alone(Subject::Sandbox(&r.pod_sandbox_id));
                /// Removes a pod sandbox and its containers, by force if they run. On one that is gone it is a success.
                RemovePodSandbox remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse,
                    |r| Turn::Alone(Subject::Sandbox(&r.pod_sandbox_id));
                /// Tells all about one pod sandbox.
                PodSandboxStatus pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse,
                    |r| Turn::Beside(Subject::Sandbox(&r.pod_sandbox_id));
                /// Lists pod sandboxes.
                ListPodSandbox list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse, |_| Turn::Any;
                /// Makes a container in a pod sandbox, without starting it.
                CreateContainer create_container(CreateContainerRequest) -> CreateContainerResponse,
                    |r| Turn::Alone(Subject::Sandbox(&r.pod_sandbox_id));
                /// Starts a container that was created.
                StartContainer start_container(StartContainerRequest) -> StartContainerResponse,
                    |r| Turn::Alone(Subject::Container(&r.container_id));
                /// Ends a container, by force after its timeout. Again, or on one that is gone, it is a success.
                StopContainer stop_container(StopContainerRequest) -> StopContainerResponse,
                    |r| Turn::Beside(Subject::Container(&r.container_id));
                /// Removes a container, by force if it runs. On one that is gone it is a success.
                RemoveContainer remove_container(RemoveContainerRequest) -> RemoveContainerResponse,
                    |r| Turn::Alone(Subject::Container(&r.container_id));
                /// Lists containers.
                ListContainers list_containers(ListContainersRequest) -> ListContainersResponse, |_| Turn::Any;
                /// Tells all about one container.
                ContainerStatus container_status(ContainerStatusRequest) -> ContainerStatusResponse,
                    |r| Turn::Beside(Subject::Container(&r.container_id));
                /// Changes the limits of a container.
                UpdateContainerResources update_container_resources(UpdateContainerResourcesRequest)
                    -> UpdateContainerResourcesResponse,
                    |r| Turn::Alone(Subject::Container(&r.container_id));
                /// Opens a container's log again after it was rotated.
                ReopenContainerLog reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse,
                    |r| Turn::Alone(Subject::Container(&r.container_id));
                /// Runs a command in a container and waits for its end.
                ExecSync exec_sync(ExecSyncRequest) -> ExecSyncResponse,
                    |r| Turn::After(Subject::Container(&r.container_id));
                /// Prepares a stream to a command in a container.
                Exec exec(ExecRequest) -> ExecResponse, |r| Turn::Beside(Subject::Container(&r.container_id));
                /// Prepares a stream to a running container.
                Attach attach(AttachRequest) -> AttachResponse, |r| Turn::Beside(Subject::Container(&r.container_id));
                /// Prepares a stream to ports of a pod sandbox.
                PortForward port_forward(PortForwardRequest) -> PortForwardResponse,
                    |r| Turn::Beside(Subject::Sandbox(&r.pod_sandbox_id));
                /// What one container uses.
                ContainerStats container_stats(ContainerStatsRequest) -> ContainerStatsResponse,
                    |r| Turn::Beside(Subject::Container(&r.container_id));
                /// What containers use.
                ListContainerStats list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse, |_| Turn::Any;
                /// What one pod sandbox uses.
                PodSandboxStats pod_sandbox_stats(PodSandboxStatsRequest) -> PodSandboxStatsResponse,
                    |r| Turn::Beside(Subject::Sandbox(&r.pod_sandbox_id));
                /// What pod sandboxes use.
                ListPodSandboxStats list_pod_sandbox_stats(ListPodSandboxStatsRequest) -> ListPodSandboxStatsResponse,
                    |_| Turn::Any;
                /// Tells the runtime about the network of the node.
                UpdateRuntimeConfig update_runtime_config(UpdateRuntimeConfigRequest) -> UpdateRuntimeConfigResponse,
                    |_| Turn::Any;
                /// Whether the runtime is ready, and what it can do.
                Status status(StatusRequest) -> StatusResponse, |_| Turn::Any;
                /// Writes a running container to disk.
                CheckpointContainer checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse,
                    |r| Turn::Alone(Subject::Container(&r.container_id));
                /// Writes a running pod to disk.
                CheckpointPod checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse,
                    |r| Turn::Alone(Subject::Sandbox(&r.pod_sandbox_id));
                /// Makes a pod of what `CheckpointPod` wrote.
                RestorePod restore_pod(RestorePodRequest) -> RestorePodResponse,
                    |r| Turn::Alone(Subject::New(r.config.as_ref().and_then(|c| c.metadata.as_ref())));
                /// Which metrics there are.
                ListMetricDescriptors list_metric_descriptors(ListMetricDescriptorsRequest) -> ListMetricDescriptorsResponse,
                    |_| Turn::Any;
                /// Metrics of pod sandboxes.
                ListPodSandboxMetrics list_pod_sandbox_metrics(ListPodSandboxMetricsRequest) -> ListPodSandboxMetricsResponse,
                    |_| Turn::Any;
                /// How the runtime is set up, as far as the caller has to know.
                RuntimeConfig runtime_config(RuntimeConfigRequest) -> RuntimeConfigResponse, |_| Turn::Any;
                /// Tells what the containers of a pod may use together.
                UpdatePodSandboxResources update_pod_sandbox_resources(UpdatePodSandboxResourcesRequest)
                    -> UpdatePodSandboxResourcesResponse,
                    |r| Turn::Alone(Subject::Sandbox(&r.pod_sandbox_id));
            }
            image {
                /// Lists images.
                ListImages list_images(ListImagesRequest) -> ListImagesResponse, |_| Turn::Any;
                /// Tells all about one image; without an image in the response when there is none.
                ImageStatus image_status(ImageStatusRequest) -> ImageStatusResponse, |_| Turn::Any;
                /// Fetches an image from its registry.
                PullImage pull_image(PullImageRequest) -> PullImageResponse, |_| Turn::Any;
                /// Removes an image. On one that is gone it is a success.
                RemoveImage remove_image(RemoveImageRequest) -> RemoveImageResponse, |_| Turn::Any;
                /// What the image store uses.
                ImageFsInfo image_fs_info(ImageFsInfoRequest) -> ImageFsInfoResponse, |_| Turn::Any;
            }
            streams {
                StreamPodSandboxes ListPodSandbox;
                StreamContainers ListContainers;
                StreamContainerStats ListContainerStats;
                StreamPodSandboxStats ListPodSandboxStats;
                StreamPodSandboxMetrics ListPodSandboxMetrics;
                StreamImages ListImages;
            }
        }
    };
}
pub(super) use rpcs;

/// Methods of a trait, each of which says of itself that it is not there.
macro_rules! methods {
    ($($(#[$doc:meta])* $rpc:ident $name:ident($request:ident) -> $response:ident, $turn:expr;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// Whatever kept the request from being fulfilled; `UNIMPLEMENTED` where the service does not have the RPC.
            fn $name(&self, _request: $request) -> Result<$response, Status> {
                Err(not_here(stringify!($rpc)))
            }
        )*
    };
}

macro_rules! traits {
    (runtime { $($runtime:tt)* } image { $($image:tt)* } streams { $($stream:tt)* }) => {
        /// CRI's RuntimeService. A method may block; several are called at once from several threads.
        pub trait RuntimeService: Send + Sync {
            methods! { $($runtime)* }

            /// Hands over container events as they happen, until nobody listens any more.
            ///
            /// # Errors
            /// Whatever kept the events from being watched; `UNIMPLEMENTED` where the service has none.
            fn container_events(&self, _request: GetEventsRequest, _events: &mut dyn Events) -> Result<(), Status> {
                Err(not_here("GetContainerEvents"))
            }

            /// The pod that a request is about, by whatever text stands for it alone: requests with the same text take turns.
            /// Asked before the request begins, so it must be quick. `None` lets the request begin at once.
            fn lane(&self, subject: Subject<'_>) -> Option<String> {
                match subject {
                    Subject::New(metadata) => metadata.map(|m| m.uid.clone()),
                    Subject::Sandbox(id) | Subject::Container(id) => Some(id.to_owned()),
                }
            }
        }

        /// CRI's ImageService. A method may block; several are called at once from several threads.
        pub trait ImageService: Send + Sync {
            methods! { $($image)* }
        }
    };
}
rpcs!(traits);

/// One object that answers everything.
pub trait Service: RuntimeService + ImageService {}
impl<T: RuntimeService + ImageService> Service for T {}

fn not_here(rpc: &str) -> Status {
    Status::unimplemented(format!("{rpc} is not implemented by this husk"))
}
