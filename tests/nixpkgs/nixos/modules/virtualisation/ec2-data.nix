# What EC2 tells the machine, and the fingerprints that the machine tells EC2 (nixpkgs: ec2-data.nix, ec2-metadata-fetcher.sh).
{ config, lib, pkgs, ... }:
{
  systemd.services.fetch-ec2-metadata = {
    description = "Fetch EC2 Metadata";
    wantedBy = [ "multi-user.target" ];
    wants = [ "network-online.target" ];
    after = [ "network-online.target" ];
    path = [ pkgs.curl ];
    script = builtins.readFile ./fetch-ec2-metadata.sh;
    serviceConfig = { Type = "oneshot"; StandardOutput = "journal+console"; };
  };

  systemd.services.apply-ec2-data = {
    description = "Apply EC2 Data";
    wantedBy = [ "multi-user.target" "sshd.service" ];
    before = [ "sshd.service" ];
    after = [ "fetch-ec2-metadata.service" ];
    path = [ pkgs.hostname ];
    script = lib.optionalString (config.networking.hostName == "") ''
      if [ -s /etc/ec2-metadata/hostname ]; then
          echo "setting host name..."
          hostname "$(cat /etc/ec2-metadata/hostname)"
      fi
    '' + builtins.readFile ./apply-ec2-data.sh;
    serviceConfig = { Type = "oneshot"; RemainAfterExit = true; };
  };

  systemd.services.print-host-key = {
    description = "Print SSH Host Key";
    wantedBy = [ "multi-user.target" ];
    after = [ "sshd.service" ];
    path = [ config.programs.ssh.package ];
    # ec2-up finds the machine's keys by these lines of the console output.
    script = ''
      {
          echo "-----BEGIN SSH HOST KEY FINGERPRINTS-----"
          for key in /etc/ssh/ssh_host_*_key.pub; do
              ssh-keygen -l -f "$key" || true
          done
          echo "-----END SSH HOST KEY FINGERPRINTS-----"
      } > /dev/console
    '';
    serviceConfig = { Type = "oneshot"; RemainAfterExit = true; };
  };
}
