//! The volumes of a pod, as `kubectl describe` tells of them.

use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, ProjectedVolumeSource, Volume};

use super::sheet::Sheet;

/// One volume, its name on the first line.
pub fn describe(sheet: &mut Sheet, volume: &Volume) {
    sheet.line(1, format!("{}:", volume.name));
    let optional = |given: Option<bool>| given.unwrap_or(false);
    if let Some(host) = &volume.host_path {
        sheet.field(2, "Type", "HostPath (bare host directory volume)");
        sheet.field(2, "Path", &host.path);
        sheet.field(2, "HostPathType", host.type_.as_deref().unwrap_or("<none>"));
    } else if let Some(empty) = &volume.empty_dir {
        sheet.field(2, "Type", "EmptyDir (a temporary directory that shares a pod's lifetime)");
        sheet.field(2, "Medium", empty.medium.as_deref().unwrap_or_default());
        sheet.field(2, "SizeLimit", empty.size_limit.as_ref().map_or("<unset>", |limit| &limit.0));
    } else if let Some(secret) = &volume.secret {
        sheet.field(2, "Type", "Secret (a volume populated by a Secret)");
        sheet.field(2, "SecretName", secret.secret_name.as_deref().unwrap_or_default());
        sheet.field(2, "Optional", optional(secret.optional));
    } else if let Some(map) = &volume.config_map {
        sheet.field(2, "Type", "ConfigMap (a volume populated by a ConfigMap)");
        sheet.field(2, "Name", &map.name);
        sheet.field(2, "Optional", optional(map.optional));
    } else if let Some(downward) = &volume.downward_api {
        sheet.field(2, "Type", "DownwardAPI (a volume populated by information about the pod)");
        sheet.line(2, "Items:");
        downward.items.iter().flatten().for_each(|item| sheet.line(3, downward_item(item)));
    } else if let Some(projected) = &volume.projected {
        sheet.field(2, "Type", "Projected (a volume that contains injected data from multiple sources)");
        sources(sheet, projected);
    } else if let Some(image) = &volume.image {
        sheet.field(2, "Type", "Image (a container image or OCI artifact)");
        sheet.field(2, "Reference", image.reference.as_deref().unwrap_or_default());
        sheet.field(2, "PullPolicy", image.pull_policy.as_deref().unwrap_or_default());
    } else {
        sheet.line(2, "<unknown>");
    }
}

/// `metadata.labels -> labels`
fn downward_item(item: &DownwardAPIVolumeFile) -> String {
    let field = item.field_ref.as_ref().map(|field| field.field_path.as_str());
    let resource = item.resource_field_ref.as_ref().map(|resource| resource.resource.as_str());
    format!("{} -> {}", field.or(resource).unwrap_or_default(), item.path)
}

fn sources(sheet: &mut Sheet, projected: &ProjectedVolumeSource) {
    for source in projected.sources.iter().flatten() {
        if let Some(secret) = &source.secret {
            sheet.field(2, "SecretName", &secret.name);
            sheet.field(2, "Optional", secret.optional.unwrap_or(false));
        } else if source.downward_api.is_some() {
            sheet.field(2, "DownwardAPI", true);
        } else if let Some(map) = &source.config_map {
            sheet.field(2, "ConfigMapName", &map.name);
            sheet.field(2, "Optional", map.optional.unwrap_or(false));
        } else if let Some(token) = &source.service_account_token {
            sheet.optional(2, "TokenExpirationSeconds", token.expiration_seconds);
        }
    }
}
