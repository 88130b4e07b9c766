# User data that is a script is run at every boot (nixpkgs: amazon-init.nix).
{ config, lib, ... }:
{
  options.virtualisation.amazon-init.enable = lib.mkOption {
    type = lib.types.bool;
    default = true;
    description = "Whether user data is acted upon at boot.";
  };

  config = lib.mkIf config.virtualisation.amazon-init.enable {
    systemd.services.amazon-init = {
      description = "Reconfigure the system from EC2 userdata on startup";
      wantedBy = [ "multi-user.target" ];
      after = [ "multi-user.target" "fetch-ec2-metadata.service" ];
      requires = [ "network-online.target" ];
      path = [ "/run/wrappers" "/run/current-system/sw" ];
      script = builtins.readFile ./amazon-init.sh;
      serviceConfig = { Type = "oneshot"; RemainAfterExit = true; };
      restartIfChanged = false;
      unitConfig.X-StopOnRemoval = false;
    };
  };
}
