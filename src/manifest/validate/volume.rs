//! `spec.volumes` and `volumeMounts`.

use super::super::quantity;
use super::{Report, has_control, names};
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, HostPathVolumeSource, Volume, VolumeMount};
use std::collections::BTreeSet;

const HOST_PATH_TYPES: &[&str] =
    &["", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket", "CharDevice", "BlockDevice"];

/// Checks the volumes and answers with their names.
pub(super) fn check<'a>(volumes: &'a [Volume], r: &mut Report) -> BTreeSet<&'a str> {
    let mut known = BTreeSet::new();
    for (i, v) in volumes.iter().enumerate() {
        let path = format!("spec.volumes[{i}]");
        r.name(format!("{path}.name"), &v.name, names::dns_label);
        if !known.insert(v.name.as_str()) {
            r.add(format!("{path}.name"), format!("duplicate: another volume is already called {:?}", v.name));
        }
        check_source(v, &path, r);
    }
    known
}

fn check_source(v: &Volume, path: &str, r: &mut Report) {
    let Volume {
        name: _,
        empty_dir,
        host_path,
        aws_elastic_block_store,
        azure_disk,
        azure_file,
        cephfs,
        cinder,
        config_map,
        csi,
        downward_api,
        ephemeral,
        fc,
        flex_volume,
        flocker,
        gce_persistent_disk,
        git_repo,
        glusterfs,
        image,
        iscsi,
        nfs,
        persistent_volume_claim,
        photon_persistent_disk,
        portworx_volume,
        projected,
        quobyte,
        rbd,
        scale_io,
        secret,
        storageos,
        vsphere_volume,
    } = v;
    let others = [
        ("awsElasticBlockStore", aws_elastic_block_store.is_some()),
        ("azureDisk", azure_disk.is_some()),
        ("azureFile", azure_file.is_some()),
        ("cephfs", cephfs.is_some()),
        ("cinder", cinder.is_some()),
        ("configMap", config_map.is_some()),
        ("csi", csi.is_some()),
        ("downwardAPI", downward_api.is_some()),
        ("ephemeral", ephemeral.is_some()),
        ("fc", fc.is_some()),
        ("flexVolume", flex_volume.is_some()),
        ("flocker", flocker.is_some()),
        ("gcePersistentDisk", gce_persistent_disk.is_some()),
        ("gitRepo", git_repo.is_some()),
        ("glusterfs", glusterfs.is_some()),
        ("image", image.is_some()),
        ("iscsi", iscsi.is_some()),
        ("nfs", nfs.is_some()),
        ("persistentVolumeClaim", persistent_volume_claim.is_some()),
        ("photonPersistentDisk", photon_persistent_disk.is_some()),
        ("portworxVolume", portworx_volume.is_some()),
        ("projected", projected.is_some()),
        ("quobyte", quobyte.is_some()),
        ("rbd", rbd.is_some()),
        ("scaleIO", scale_io.is_some()),
        ("secret", secret.is_some()),
        ("storageos", storageos.is_some()),
        ("vsphereVolume", vsphere_volume.is_some()),
    ];
    let mut sources = usize::from(empty_dir.is_some()) + usize::from(host_path.is_some());
    for (source, given) in others {
        sources += usize::from(given);
        if given {
            r.add(format!("{path}.{source}"), "not supported yet; only emptyDir and hostPath are");
        }
    }
    match sources {
        0 => r.add(path, "must have a source, e.g. `emptyDir: {}`"),
        1 => {}
        _ => r.add(path, "must have one source, not several"),
    }
    if let Some(e) = empty_dir {
        check_empty_dir(e, &format!("{path}.emptyDir"), r);
    }
    if let Some(h) = host_path {
        check_host_path(h, &format!("{path}.hostPath"), r);
    }
}

fn check_empty_dir(e: &EmptyDirVolumeSource, path: &str, r: &mut Report) {
    let EmptyDirVolumeSource { medium, size_limit } = e;
    let medium = medium.as_deref().unwrap_or_default();
    if !matches!(medium, "" | "Memory") {
        r.add(format!("{path}.medium"), format!("{medium:?} is not supported; leave it out (disk) or use Memory"));
    }
    let Some(limit) = size_limit else { return };
    let path = format!("{path}.sizeLimit");
    match quantity(&limit.0) {
        Err(e) => r.add(path, format!("{:?} is {e}", limit.0)),
        Ok(q) if q.value().is_none_or(|n| n == 0) => r.add(path, format!("{:?} must be more than 0", limit.0)),
        Ok(_) if medium.is_empty() => {
            r.add(path, "not supported yet on disk; remove it, or use `medium: Memory`, where it is enforced");
        }
        Ok(_) => {}
    }
}

fn check_host_path(h: &HostPathVolumeSource, path: &str, r: &mut Report) {
    let HostPathVolumeSource { path: host_path, type_ } = h;
    check_path(host_path, format!("{path}.path"), r);
    r.word(format!("{path}.type"), type_, HOST_PATH_TYPES);
}

/// Absolute, without `..` and without what a mount table can't hold.
pub(super) fn check_path(p: &str, path: String, r: &mut Report) {
    if p.is_empty() {
        r.add(path, "required");
    } else if !p.starts_with('/') {
        r.add(path, format!("{p:?} must be an absolute path"));
    } else if has_parent(p) {
        r.add(path, format!("{p:?} must not contain '..'"));
    } else if has_control(p) {
        r.add(path, format!("{p:?} must not contain control characters"));
    } else if p.len() >= PATH_MAX {
        r.add(path, format!("must be shorter than {PATH_MAX} bytes"));
    }
}

/// The kernel's.
const PATH_MAX: usize = libc::PATH_MAX as usize;

fn has_parent(p: &str) -> bool {
    p.split('/').any(|part| part == "..")
}

/// `/a//b/./` as `/a/b`, so that two spellings of one place are seen as one.
fn normal(p: &str) -> String {
    let parts: Vec<&str> = p.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    format!("/{}", parts.join("/"))
}

/// Checks the mounts of one container.
pub(super) fn check_mounts(
    mounts: &[VolumeMount],
    container_path: &str,
    privileged: bool,
    volumes: &BTreeSet<&str>,
    r: &mut Report,
) {
    let mut taken = BTreeSet::new();
    for (i, m) in mounts.iter().enumerate() {
        let path = format!("{container_path}.volumeMounts[{i}]");
        let VolumeMount {
            mount_path,
            mount_propagation,
            name,
            read_only,
            recursive_read_only,
            sub_path,
            sub_path_expr,
        } = m;
        if name.is_empty() {
            r.add(format!("{path}.name"), "required");
        } else if !volumes.contains(name.as_str()) {
            r.add(format!("{path}.name"), format!("{name:?} is no volume of this pod"));
        }
        check_target(mount_path, format!("{path}.mountPath"), &mut taken, r);
        r.refuse(format!("{path}.subPathExpr"), sub_path_expr.as_ref().is_some_and(|s| !s.is_empty()));
        if let Some(sub) = sub_path {
            check_sub_path(sub, format!("{path}.subPath"), r);
        }
        r.word(format!("{path}.mountPropagation"), mount_propagation, &["None", "HostToContainer", "Bidirectional"]);
        let propagation = mount_propagation.as_deref().unwrap_or("None");
        if propagation == "Bidirectional" && !privileged {
            r.add(format!("{path}.mountPropagation"), "Bidirectional needs a privileged container");
        }
        let recursive_path = format!("{path}.recursiveReadOnly");
        r.word(recursive_path.clone(), recursive_read_only, &["Disabled", "IfPossible", "Enabled"]);
        if recursive_read_only.as_deref().is_some_and(|w| w != "Disabled") {
            if *read_only != Some(true) {
                r.add(recursive_path.clone(), "needs readOnly: true");
            }
            if propagation != "None" {
                r.add(recursive_path, "must not be used together with mountPropagation");
            }
        }
    }
}

fn check_target(target: &str, path: String, taken: &mut BTreeSet<String>, r: &mut Report) {
    let before = r.errors.len();
    check_path(target, path.clone(), r);
    if r.errors.len() > before {
        return;
    }
    let place = normal(target);
    if target.contains(':') {
        r.add(path, format!("{target:?} must not contain ':'"));
    } else if place == "/" {
        r.add(path, "a volume can't take the place of the container's root");
    } else if place == "/proc" || place.starts_with("/proc/") {
        r.add(path, format!("{target:?}: nothing can be mounted on or below /proc"));
    } else if !taken.insert(place) {
        r.add(path, format!("duplicate: another volume is already mounted at {target:?}"));
    }
}

/// Where a file of its own is mounted in a container; a relative path begins at the root.
pub(super) fn check_message_path(file: &str, path: String, r: &mut Report) {
    let before = r.errors.len();
    check_path(&format!("/{file}"), path.clone(), r);
    if r.errors.len() > before {
        return;
    }
    let place = normal(file);
    if place == "/" || file.ends_with('/') {
        r.add(path, format!("{file:?} must be a file's path"));
    } else if place == "/proc" || place.starts_with("/proc/") {
        r.add(path, format!("{file:?}: nothing can be mounted on or below /proc"));
    }
}

fn check_sub_path(sub: &str, path: String, r: &mut Report) {
    if sub.starts_with('/') {
        r.add(path, format!("{sub:?} must be a relative path"));
    } else if has_parent(sub) {
        r.add(path, format!("{sub:?} must not contain '..'"));
    } else if has_control(sub) {
        r.add(path, format!("{sub:?} must not contain control characters"));
    }
}
